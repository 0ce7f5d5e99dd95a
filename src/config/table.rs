//! The one table of options, from which the command lines, their help and their messages are made.

mod options;

use super::getopt::Known;

pub(super) use options::OPTIONS;

/// What an option sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Opt {
    Debug,
    Trace,
    Stats,
    Check,
    Json,
    AllowDegraded,
    Quiet,
    Foreground,
    Stderr,
    LogFile,
    LogSize,
    LogFd,
    LogFormat,
    RunAs,
    ConfPath,
    Control,
    Help,
    Version,
    Pcap,
    Pid,
    ReadyFd,
    ExitFd,
    Threads,
    Mtu,
    Queues,
    Address,
    Netmask,
    MacAddr,
    Gateway,
    Interface,
    NoFollow,
    Outbound,
    OutboundIf4,
    OutboundIf6,
    Dns,
    DnsForward,
    DnsHost,
    Search,
    NoDhcpDns,
    DhcpDns,
    NoDhcpSearch,
    DhcpSearch,
    NoTcp,
    NoUdp,
    NoIcmp,
    NoDhcp,
    NoNdp,
    NoDhcpv6,
    NoRa,
    Freebind,
    MapHostLoopback,
    NoMapGw,
    MapGuestAddr,
    ChrootFallback,
    Ipv4Only,
    Ipv6Only,
    Hostname,
    Fqdn,
    TcpPorts,
    UdpPorts,
    Socket,
    Connect,
    Fd,
    OneOff,
    VhostUser,
    PrintCapabilities,
    RepairPath,
    MigrateExit,
    MigrateNoLinger,
    NsIfname,
    TcpNs,
    UdpNs,
    HostLoToNsLo,
    Userns,
    Netns,
    UsernsFd,
    NetnsFd,
    NetnsOnly,
    NoNetnsQuit,
    NoPidns,
    ConfigNet,
    NoConfigNet,
    NoCopyRoutes,
    NoCopyAddrs,
    NsMacAddr,
    NoSplice,
    SpliceOnly,
}

/// Heading of the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Running,
    Namespace,
    Addresses,
    Names,
    Protocols,
    Mapping,
    Ports,
    Machines,
}

impl Group {
    pub const ALL: [Group; 8] = [
        Group::Running,
        Group::Machines,
        Group::Namespace,
        Group::Addresses,
        Group::Names,
        Group::Protocols,
        Group::Mapping,
        Group::Ports,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Group::Running => "Running and logging",
            Group::Namespace => "Namespaces",
            Group::Addresses => "Link, addresses and routes",
            Group::Names => "Names",
            Group::Protocols => "Protocols",
            Group::Mapping => "Reaching the host",
            Group::Ports => "Port forwarding",
            Group::Machines => "Virtual machines",
        }
    }
}

bitflags::bitflags! {
    /// Command lines.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Faces: u8 {
        const PASTA = 1;
        const PASST = 2;
        /// `spelt run`, and so on.
        const RUN = 4;
        const ATTACH = 8;
        const VM = 16;
    }
}

impl Faces {
    /// Those that others have defined.
    pub const PEERS: Faces = Faces::PASTA.union(Faces::PASST);
    pub const SPELT: Faces = Faces::RUN.union(Faces::ATTACH).union(Faces::VM);
    /// Those whose guest is a namespace ...
    pub const NAMESPACES: Faces = Faces::PASTA.union(Faces::RUN).union(Faces::ATTACH);
    /// ... or a virtual machine.
    pub const MACHINES: Faces = Faces::PASST.union(Faces::VM);
}

#[derive(Debug)]
pub(super) struct Def {
    pub opt: Opt,
    pub long: &'static str,
    pub short: Option<char>,
    /// Name of the value; `None`: a flag.
    pub value: Option<&'static str>,
    /// Command lines that have it.
    pub faces: Faces,
    pub group: Group,
    pub help: &'static str,
}

impl Def {
    /// The name to use in messages, unless it is known how the user wrote it.
    pub fn dashed(&self) -> String {
        format!("--{}", self.long)
    }
}

impl Known for Def {
    fn long(&self) -> &'static str {
        self.long
    }

    fn short(&self) -> Option<char> {
        self.short
    }

    fn takes_value(&self) -> bool {
        self.value.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for face in [Faces::PASTA, Faces::PASST, Faces::RUN, Faces::ATTACH, Faces::VM] {
            let defs = || OPTIONS.iter().filter(|d| d.faces.contains(face));
            let mut longs: Vec<_> = defs().map(|d| d.long).collect();
            let mut shorts: Vec<_> = defs().filter_map(|d| d.short).collect();
            let (n, m) = (longs.len(), shorts.len());
            longs.sort_unstable();
            longs.dedup();
            shorts.sort_unstable();
            shorts.dedup();
            assert_eq!((longs.len(), shorts.len()), (n, m));
        }
    }

    /// The names that existing callers rely on.
    #[test]
    fn every_name_of_the_peer_is_known() {
        let names = "-d --debug --trace --stats -q --quiet -f --foreground -e --stderr -l --log-file --log-size --runas \
            -c --conf-path -h --help --version -p --pcap -P --pid -m --mtu -a --address -n --netmask -M --mac-addr -g \
            --gateway -i --interface -o --outbound --outbound-if4 --outbound-if6 -D --dns --dns-forward --dns-host -S \
            --search --no-dhcp-dns --dhcp-dns --no-dhcp-search --dhcp-search --no-tcp --no-udp --no-icmp --no-dhcp \
            --no-ndp --no-dhcpv6 --no-ra --freebind --map-host-loopback --no-map-gw --map-guest-addr --chroot-fallback \
            -4 --ipv4-only -6 --ipv6-only -H --hostname --fqdn -t --tcp-ports -u --udp-ports -s --socket --socket-path \
            --vhost-user --print-capabilities --repair-path --migrate-exit --migrate-no-linger -F --fd -1 --one-off -I \
            --ns-ifname -T --tcp-ns -U --udp-ns --host-lo-to-ns-lo --userns --netns --netns-only --no-netns-quit \
            --no-pidns --config-net --no-copy-routes --no-copy-addrs --ns-mac-addr --no-splice --splice-only";
        for name in names.split_whitespace() {
            let known = match name.strip_prefix("--") {
                Some(long) => OPTIONS.iter().any(|d| d.long == long),
                None => OPTIONS.iter().any(|d| d.short == name.chars().nth(1)),
            };
            assert!(known, "{name}");
        }
    }
}
