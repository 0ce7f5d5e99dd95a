//! The validated configuration: plain values, each documented with its default.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::{Addr, Mac, PerFamily};
use crate::fwd::Proto;
use crate::fwd::ports::Ports;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Spawn a program in new namespaces: the mode is [`Mode::Spawn`].
    Run(Box<Config>),
    /// Serve an existing namespace: the mode is [`Mode::Attach`].
    Attach(Box<Config>),
    /// Serve a virtual machine: the mode is [`Mode::Machine`].
    Machine(Box<Config>),
    /// Change what a running instance forwards.
    Change(Box<super::pesto::Wanted>),
    /// Print and exit: `--help`, `--version`.
    Print { text: String, stdout: bool, status: u8 },
}

/// The command line was refused: print `message` on stderr and exit with `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Whole lines, without the last line end.
    pub message: String,
    pub status: u8,
}

/// Which command line this process was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Personality {
    Spelt,
    Pasta,
    Passt,
    Slirp4netns,
}

impl Personality {
    /// For log identity, messages, and the version line.
    pub fn name(self) -> &'static str {
        match self {
            Personality::Spelt => "spelt",
            Personality::Pasta => "pasta",
            Personality::Passt => "passt",
            Personality::Slirp4netns => "slirp4netns",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Spawn {
        /// Program and arguments; empty: the user's shell as a login shell.
        command: Vec<OsString>,
        /// User namespace to join instead of creating one.
        userns: Option<PathBuf>,
        /// Create no user namespace.
        netns_only: bool,
    },
    Attach {
        target: Target,
        /// User namespace to join; `None`: the one that owns the network namespace, unless `netns_only`.
        userns: Option<PathBuf>,
        /// Join no user namespace.
        netns_only: bool,
    },
    Machine {
        plug: Plug,
        /// End when the first client goes. Always with [`Plug::Descriptor`] and [`Plug::Connect`], which nobody can
        /// connect to again.
        one_off: bool,
    },
}

/// Where a virtual machine's frames come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plug {
    /// Clients of a UNIX socket to be made here; `None`: at a path that is free.
    Socket(Option<PathBuf>),
    /// An inherited descriptor, connected already.
    Descriptor(i32),
    /// A UNIX socket where the virtual machine waits for us.
    Connect(PathBuf),
}

/// An existing network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A process that lives in it.
    Pid(i32),
    /// A namespace file: bind mount, `/proc/PID/ns/net`, `/proc/self/fd/N`.
    Path(PathBuf),
    /// As `ip netns` names it: a file in `/run/netns`.
    Name(String),
    /// An inherited descriptor.
    Descriptor(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    Normal,
    Debug,
    /// Every packet.
    Trace,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    /// An object each.
    Json,
}

/// Name servers told to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dns {
    /// Those of the host's resolv.conf.
    FromHost,
    /// None, and no DNS forwarding either.
    None,
    /// At most [`Dns::MAX_PER_FAMILY`] of each family, in the order given.
    Servers(Vec<Addr>),
}

impl Dns {
    pub const MAX_PER_FAMILY: usize = 3;
}

/// DNS search list told to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    /// That of the host's resolv.conf.
    FromHost,
    None,
    /// At most [`Search::MAX`] valid names, without trailing dot.
    Domains(Vec<String>),
}

impl Search {
    pub const MAX: usize = 6;
}

/// Which address as seen by the guest is the host's loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Map {
    /// The gateway's.
    #[default]
    Gateway,
    /// None.
    Off,
    To(Addr),
}

/// A user or a group, as given to `--runas`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    Number(u32),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    pub user: Id,
    pub group: Option<Id>,
}

/// An address to assign, with its prefix length if one was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assign {
    pub addr: Addr,
    pub prefix: Option<u8>,
}

/// Where the control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    Off,
    /// By a name of its own among the user's run-time files, if there is a directory for these.
    Default,
    At(PathBuf),
}

/// What it means that this machine lacks a means of isolation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lack {
    /// We do not start.
    #[default]
    Fatal,
    Warning,
    /// Whoever asks for details is told.
    Remark,
}

/// By means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Namespaces of our own, and an empty root.
    pub namespaces: Lack,
    /// Landlock.
    pub files: Lack,
    /// The filter of system calls.
    pub filter: Lack,
}

impl Lacks {
    /// All of it may be missing.
    pub const DEGRADED: Lacks = Lacks { namespaces: Lack::Warning, files: Lack::Warning, filter: Lack::Warning };

    /// As for those who have told already.
    #[must_use]
    pub fn told(self) -> Lacks {
        let told = |lack| if lack == Lack::Warning { Lack::Remark } else { lack };
        Lacks { namespaces: told(self.namespaces), files: told(self.files), filter: told(self.filter) }
    }
}

/// Everything the user decides. Names of interfaces, users and files are checked for form only: existence is for the
/// code that uses them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub personality: Personality,
    pub mode: Mode,
    /// Notes for the user about this command line, to be logged as warnings.
    pub warnings: Vec<String>,

    /// Say whether this would start, and do not.
    pub check: bool,
    /// The start-up summary is for a program, on standard output.
    pub json: bool,
    /// Stay in the foreground. Always when spawning.
    pub foreground: bool,
    pub verbosity: Verbosity,
    pub log_file: Option<PathBuf>,
    /// An inherited descriptor, instead of a file.
    pub log_fd: Option<i32>,
    pub log_format: LogFormat,
    /// At least [`Config::LOG_SIZE_MIN`].
    pub log_size_bytes: u64,
    pub pid_file: Option<PathBuf>,
    pub pcap: Option<PathBuf>,
    /// Seconds between statistics lines.
    pub stats_secs: Option<u32>,
    pub runas: Option<RunAs>,
    pub conf_path: Option<PathBuf>,
    pub control: Control,
    pub chroot_fallback: bool,
    pub lacks: Lacks,
    /// Frames through the machine's own memory.
    pub vhost_user: bool,
    /// Queues of the tap, from 1 to [`Config::QUEUES_MAX`]; `None`: [`Config::QUEUES_DEFAULT`], or one where the interface
    /// exists and has no more, for one thread. Nothing with [`Mode::Machine`], where the hypervisor decides.
    pub queues: Option<u8>,
    /// Worker threads, from 1 to [`Config::QUEUES_MAX`], in a namespace not more than `queues`; `None`: one for each queue
    /// that was asked for, up to the number of cores.
    pub threads: Option<u8>,
    /// The name of an option about migration, if one was given.
    pub migration: Option<&'static str>,
    /// The inherited descriptor that `userns` of the mode names.
    pub userns_fd: Option<i32>,
    /// An inherited descriptor: "1" is written to it when all is ready.
    pub ready_fd: Option<i32>,
    /// An inherited descriptor: when its other end hangs up, we end.
    pub exit_fd: Option<i32>,
    /// Where to listen for requests to forward ports, in the words of slirp4netns.
    pub api_socket: Option<PathBuf>,

    /// IP MTU of the guest link; 0: neither set nor advertised.
    pub mtu: u16,
    pub addresses: PerFamily<Option<Assign>>,
    /// IPv4 prefix length of `--netmask`; never together with a prefix in `addresses.v4`.
    pub netmask: Option<u8>,
    /// Our MAC address on the guest link.
    pub our_mac: Mac,
    /// The guest interface's MAC address; `None`: the kernel's choice.
    pub ns_mac: Option<Mac>,
    pub gateway: PerFamily<Option<Addr>>,
    /// Template interface.
    pub interface: Option<String>,
    /// What changes of the host's network while we run changes for the guest as well.
    pub follow: bool,
    pub outbound_addr: PerFamily<Option<Addr>>,
    pub outbound_if: PerFamily<Option<String>>,

    pub dns: Dns,
    pub search: Search,
    pub dns_forward: PerFamily<Option<Addr>>,
    pub dns_host: PerFamily<Option<Addr>>,
    pub map_host_loopback: PerFamily<Map>,
    pub map_guest_addr: PerFamily<Option<Addr>>,
    /// Let clients on the host's loopback in as the gateway, even where `map_host_loopback` is off.
    pub loopback_clients: bool,
    pub hostname: Option<String>,
    pub fqdn: Option<String>,

    pub v4: bool,
    pub v6: bool,
    pub tcp: bool,
    pub udp: bool,
    pub icmp: bool,
    pub dhcp: bool,
    pub dhcpv6: bool,
    pub ndp: bool,
    /// Router advertisements; false also with `config_net`, which sets the addresses itself.
    pub ra: bool,
    /// Pass name servers by DHCP, DHCPv6 and NDP.
    pub dhcp_dns: bool,
    /// Pass the search list by DHCP, DHCPv6 and NDP.
    pub dhcp_search: bool,
    pub freebind: bool,

    /// Set link, addresses and routes inside the namespace.
    pub config_net: bool,
    /// Name of the interface inside; `None`: that of the template interface.
    pub ns_ifname: Option<String>,
    pub no_copy_routes: bool,
    pub no_copy_addrs: bool,
    /// End when the namespace goes.
    pub netns_quit: bool,
    /// Go on for this long after the namespace's end, for a caller that would miss us.
    pub linger: Duration,
    /// Spawn into a PID namespace of its own.
    pub pidns: bool,

    /// Host to guest.
    pub tcp_ports: Ports,
    pub udp_ports: Ports,
    /// Guest to host, over loopback.
    pub tcp_ns: Ports,
    pub udp_ns: Ports,
    pub splice: bool,
    pub splice_only: bool,
    pub host_lo_to_ns_lo: bool,
}

impl Config {
    /// The guest's network follows the host's. Without a link there is nothing to follow with.
    pub fn follows(&self) -> bool {
        self.follow && !self.splice_only
    }

    /// False: the protocol is switched off.
    pub fn carries(&self, proto: Proto) -> bool {
        match proto {
            Proto::Tcp => self.tcp,
            Proto::Udp => self.udp,
        }
    }

    /// And what we have configured in its namespace.
    pub fn keeps_up(&self) -> bool {
        self.follows() && self.config_net
    }

    pub const DEFAULT_MTU: u16 = 65520;
    pub const DEFAULT_MAC: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
    /// Least MTU of a link for IPv6 (RFC 8200 §5).
    pub const IPV6_MTU_MIN: u16 = 1280;
    /// Queues of a tap if nobody says: one for transfers at full speed, one for what else is answered, and
    /// one for a flood that neither should wait behind.
    pub const QUEUES_DEFAULT: u8 = 3;
    /// Most queues of a link, and most threads.
    pub const QUEUES_MAX: u8 = 8;
    pub const LOG_SIZE_DEFAULT: u64 = 1 << 20;
    pub const LOG_SIZE_MIN: u64 = 40960;
}
