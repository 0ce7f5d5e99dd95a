//! The one table of options, from which both command lines, their help and their messages are made.

use super::getopt::Known;

/// What an option sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Opt {
    Debug,
    Trace,
    Stats,
    Check,
    Json,
    Quiet,
    Foreground,
    Stderr,
    LogFile,
    LogSize,
    RunAs,
    ConfPath,
    Help,
    Version,
    Pcap,
    Pid,
    Mtu,
    Address,
    Netmask,
    MacAddr,
    Gateway,
    Interface,
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
    /// Options that only the VM mode has: known, so that they can be refused by name.
    VmOnly,
    NsIfname,
    TcpNs,
    UdpNs,
    HostLoToNsLo,
    Userns,
    Netns,
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
        Group::Namespace,
        Group::Addresses,
        Group::Names,
        Group::Protocols,
        Group::Mapping,
        Group::Ports,
        Group::Machines,
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

/// Which command lines have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// pasta, `spelt run` and `spelt attach`.
    All,
    /// pasta only: what `spelt` says otherwise, or what is accepted for old callers.
    Pasta,
    /// pasta and `spelt run`.
    Spawn,
    /// pasta and `spelt attach`.
    Attach,
    /// `spelt run` and `spelt attach`.
    Spelt,
}

#[derive(Debug)]
pub(super) struct Def {
    pub opt: Opt,
    pub long: &'static str,
    pub short: Option<char>,
    /// Name of the value; `None`: a flag.
    pub value: Option<&'static str>,
    pub face: Face,
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

/// In the order in which ambiguous abbreviations list them.
pub(super) static OPTIONS: &[Def] = {
    use Face::{All, Attach, Pasta, Spawn, Spelt};
    use Group::*;
    &[
        flag(Opt::Debug, "debug", 'd', All, Running, "Log what happens"),
        flag(Opt::Trace, "trace", NO, All, Running, "Log every packet; implies --debug"),
        value(
            Opt::Stats,
            "stats",
            NO,
            "SECONDS",
            All,
            Running,
            "Print counters every SECONDS in which something happened (foreground only)",
        ),
        flag(Opt::Check, "check", NO, Spelt, Running, "Only check whether this would start, and exit with 0 or 1"),
        flag(
            Opt::Json,
            "json",
            NO,
            Spelt,
            Running,
            "Print the start-up summary as one JSON object on standard output; in 'run' with --check only",
        ),
        flag(Opt::Quiet, "quiet", 'q', All, Running, "Log warnings and errors only"),
        flag(Opt::Foreground, "foreground", 'f', All, Running, "Stay in the foreground"),
        flag(Opt::Stderr, "stderr", 'e', Pasta, Running, "Accepted for old callers, without effect"),
        value(Opt::LogFile, "log-file", 'l', "PATH", All, Running, "Log to this file only"),
        value(
            Opt::LogSize,
            "log-size",
            NO,
            "BYTES",
            All,
            Running,
            "Largest size of the log file, at least 40960 [default: 1048576]",
        ),
        value(Opt::RunAs, "runas", NO, "UID|UID:GID|LOGIN|LOGIN:GROUP", All, Running, "Run as this user and group"),
        value(Opt::ConfPath, "conf-path", 'c', "PATH", All, Running, "Socket for changing port forwarding at run time"),
        flag(Opt::Help, "help", 'h', Pasta, Running, "Show this help and exit"),
        flag(Opt::Version, "version", NO, Pasta, Running, "Show the version and exit"),
        value(Opt::Pcap, "pcap", 'p', "FILE", All, Running, "Capture what the guest sends and receives"),
        value(Opt::Pid, "pid", 'P', "FILE", All, Running, "Write our process id to this file when ready"),
        value(
            Opt::Mtu,
            "mtu",
            'm',
            "MTU",
            All,
            Addresses,
            "MTU of the guest's interface, 68 to 65521; 0: set and advertise none [default: 65520]",
        ),
        value(
            Opt::Address,
            "address",
            'a',
            "ADDR[/LEN]",
            All,
            Addresses,
            "Address of the guest, once for each IP version [default: the host's]",
        ),
        value(
            Opt::Netmask,
            "netmask",
            'n',
            "MASK",
            All,
            Addresses,
            "IPv4 netmask, as 255.255.255.0 or 24 [default: the host's]",
        ),
        value(
            Opt::MacAddr,
            "mac-addr",
            'M',
            "MAC",
            All,
            Addresses,
            "Our MAC address as the guest sees it [default: 9a:55:9a:55:9a:55]",
        ),
        value(
            Opt::Gateway,
            "gateway",
            'g',
            "ADDR",
            All,
            Addresses,
            "Default gateway of the guest, once for each IP version [default: the host's]",
        ),
        value(
            Opt::Interface,
            "interface",
            'i',
            "NAME",
            All,
            Addresses,
            "Host interface to take addresses and routes from [default: that of the default route]",
        ),
        value(
            Opt::Outbound,
            "outbound",
            'o',
            "ADDR",
            All,
            Addresses,
            "Source address of connections, once for each IP version [default: the kernel's choice]",
        ),
        value(Opt::OutboundIf4, "outbound-if4", NO, "NAME", All, Addresses, "Host interface for IPv4 connections"),
        value(Opt::OutboundIf6, "outbound-if6", NO, "NAME", All, Addresses, "Host interface for IPv6 connections"),
        value(
            Opt::Dns,
            "dns",
            'D',
            "ADDR",
            All,
            Names,
            "Name server, up to 3 for each IP version, or 'none' [default: the host's]",
        ),
        value(
            Opt::DnsForward,
            "dns-forward",
            NO,
            "ADDR",
            All,
            Names,
            "Forward DNS queries to ADDR to the host's name server, once for each IP version",
        ),
        value(
            Opt::DnsHost,
            "dns-host",
            NO,
            "ADDR",
            All,
            Names,
            "Name server that --dns-forward leads to [default: the first one]",
        ),
        value(
            Opt::Search,
            "search",
            'S',
            "DOMAIN",
            All,
            Names,
            "DNS search domain, up to 6, or 'none' [default: the host's]",
        ),
        flag(Opt::NoDhcpDns, "no-dhcp-dns", NO, Pasta, Names, "Pass no name servers by DHCP, DHCPv6 and NDP (default)"),
        flag(Opt::DhcpDns, "dhcp-dns", NO, All, Names, "Pass name servers by DHCP, DHCPv6 and NDP"),
        flag(
            Opt::NoDhcpSearch,
            "no-dhcp-search",
            NO,
            Pasta,
            Names,
            "Pass no search list by DHCP, DHCPv6 and NDP (default)",
        ),
        flag(Opt::DhcpSearch, "dhcp-search", NO, All, Names, "Pass the search list by DHCP, DHCPv6 and NDP"),
        flag(Opt::NoTcp, "no-tcp", NO, All, Protocols, "No TCP"),
        flag(Opt::NoUdp, "no-udp", NO, All, Protocols, "No UDP"),
        flag(Opt::NoIcmp, "no-icmp", NO, All, Protocols, "No ping"),
        flag(Opt::NoDhcp, "no-dhcp", NO, All, Protocols, "No DHCP server"),
        flag(Opt::NoNdp, "no-ndp", NO, All, Protocols, "No answers to NDP"),
        flag(Opt::NoDhcpv6, "no-dhcpv6", NO, All, Protocols, "No DHCPv6 server"),
        flag(Opt::NoRa, "no-ra", NO, All, Protocols, "No router advertisements"),
        flag(Opt::Freebind, "freebind", NO, All, Ports, "Listen on addresses that the host does not have (yet)"),
        value(
            Opt::MapHostLoopback,
            "map-host-loopback",
            NO,
            "ADDR",
            All,
            Mapping,
            "Address that leads to the host's loopback, once for each IP version, or 'none' [default: the gateway]",
        ),
        flag(Opt::NoMapGw, "no-map-gw", NO, All, Mapping, "The gateway's address does not lead to the host's loopback"),
        value(
            Opt::MapGuestAddr,
            "map-guest-addr",
            NO,
            "ADDR",
            All,
            Mapping,
            "Address that leads to the host's own address, once for each IP version, or 'none' [default: none]",
        ),
        flag(
            Opt::ChrootFallback,
            "chroot-fallback",
            NO,
            All,
            Running,
            "Use chroot where the root file system cannot be replaced",
        ),
        flag(Opt::Ipv4Only, "ipv4-only", '4', All, Protocols, "IPv4 only"),
        flag(Opt::Ipv6Only, "ipv6-only", '6', All, Protocols, "IPv6 only"),
        value(Opt::Hostname, "hostname", 'H', "NAME", All, Names, "Host name of the guest"),
        value(Opt::Fqdn, "fqdn", NO, "NAME", All, Names, "Fully qualified name passed by DHCP and DHCPv6"),
        value(
            Opt::TcpPorts,
            "tcp-ports",
            't',
            "SPEC",
            All,
            Ports,
            "Forward TCP ports of the host to the guest: 22, 8080:80, 8000-8009:9000-9009, 127.0.0.1/80, %eth0/80, [::]/80:[fd00::2]/81, all, auto, all,~22 or none; several with commas or by several options",
        ),
        value(Opt::UdpPorts, "udp-ports", 'u', "SPEC", All, Ports, "The same for UDP"),
        vm("socket", 's', Some("PATH")),
        vm("socket-path", NO, Some("PATH")),
        vm("vhost-user", NO, None),
        vm("print-capabilities", NO, None),
        vm("repair-path", NO, Some("PATH")),
        vm("migrate-exit", NO, None),
        vm("migrate-no-linger", NO, None),
        vm("fd", 'F', Some("FD")),
        vm("one-off", '1', None),
        value(
            Opt::NsIfname,
            "ns-ifname",
            'I',
            "NAME",
            All,
            Addresses,
            "Name of the interface in the namespace [default: as on the host]",
        ),
        value(
            Opt::TcpNs,
            "tcp-ns",
            'T',
            "SPEC",
            All,
            Ports,
            "Forward TCP ports of the namespace's loopback to the host's: 22, 8080:80, all, auto, all,~22 or none",
        ),
        value(Opt::UdpNs, "udp-ns", 'U', "SPEC", All, Ports, "The same for UDP"),
        flag(
            Opt::HostLoToNsLo,
            "host-lo-to-ns-lo",
            NO,
            All,
            Ports,
            "Lead connections from the host's loopback to the namespace's loopback",
        ),
        value(Opt::Userns, "userns", NO, "PATH", Attach, Namespace, "User namespace to join"),
        value(Opt::Netns, "netns", NO, "PATH|NAME", Attach, Namespace, "Network namespace to serve"),
        flag(Opt::NetnsOnly, "netns-only", NO, All, Namespace, "Join or create no user namespace"),
        flag(
            Opt::NoNetnsQuit,
            "no-netns-quit",
            NO,
            Attach,
            Namespace,
            "Go on when the namespace's file or process is gone",
        ),
        flag(Opt::NoPidns, "no-pidns", NO, Spawn, Namespace, "Create no PID namespace for the command"),
        flag(Opt::ConfigNet, "config-net", NO, All, Namespace, "Set link, addresses and routes in the namespace"),
        flag(
            Opt::NoConfigNet,
            "no-config-net",
            NO,
            Spelt,
            Namespace,
            "Leave link, addresses and routes to the namespace itself",
        ),
        flag(
            Opt::NoCopyRoutes,
            "no-copy-routes",
            NO,
            Pasta,
            Namespace,
            "Set a default route only (deprecated: use -g)",
        ),
        flag(Opt::NoCopyAddrs, "no-copy-addrs", NO, Pasta, Namespace, "Set one address only (deprecated: use -a)"),
        value(
            Opt::NsMacAddr,
            "ns-mac-addr",
            NO,
            "MAC",
            All,
            Addresses,
            "MAC address of the guest's interface [default: random]",
        ),
        flag(Opt::NoSplice, "no-splice", NO, All, Ports, "Lead loopback connections over the guest's interface too"),
        flag(Opt::SpliceOnly, "splice-only", NO, All, Ports, "Forward loopback connections only, without an interface"),
    ]
};

/// No short form.
const NO: char = '\0';

const fn flag(opt: Opt, long: &'static str, short: char, face: Face, group: Group, help: &'static str) -> Def {
    Def { opt, long, short: if short == NO { None } else { Some(short) }, value: None, face, group, help }
}

const fn value(
    opt: Opt,
    long: &'static str,
    short: char,
    value: &'static str,
    face: Face,
    group: Group,
    help: &'static str,
) -> Def {
    Def { opt, long, short: if short == NO { None } else { Some(short) }, value: Some(value), face, group, help }
}

const fn vm(long: &'static str, short: char, value: Option<&'static str>) -> Def {
    let short = if short == NO { None } else { Some(short) };
    Def { opt: Opt::VmOnly, long, short, value, face: Face::Pasta, group: Group::Machines, help: "For passt only" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut longs: Vec<_> = OPTIONS.iter().map(|d| d.long).collect();
        let mut shorts: Vec<_> = OPTIONS.iter().filter_map(|d| d.short).collect();
        let (n, m) = (longs.len(), shorts.len());
        longs.sort_unstable();
        longs.dedup();
        shorts.sort_unstable();
        shorts.dedup();
        assert_eq!((longs.len(), shorts.len()), (n, m));
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
