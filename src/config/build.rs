//! From options in the order given to one consistent [`Config`].

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::defaults::{defaults, machine_defaults};
use super::table::{Def, Group, Opt};
use super::types::{Command, Config, Control, Dns, Lacks, Map, Mode, Personality, Plug, Search, Target, Verbosity};
use super::{ports, value};
use crate::base::{Addr, Family, PerFamily};

/// What the arguments that are not options ask for.
#[derive(Debug)]
pub(super) enum Operands {
    Spawn(Vec<OsString>),
    /// `None`: given by `--netns`.
    Attach(Option<Target>),
    /// A virtual machine, which is given by options alone.
    Machine,
}

/// An option as given, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given<'a> {
    pub name: &'a str,
    pub value: &'a OsStr,
}

impl<'a> Given<'a> {
    fn invalid(&self, what: &str, advice: &str) -> String {
        format!("Invalid {what} '{}' for option '{}': {advice}", self.value.to_string_lossy(), self.name)
    }

    fn text(&self, what: &str) -> Result<&'a str, String> {
        self.value.to_str().ok_or_else(|| self.invalid(what, "it is not UTF-8 text"))
    }

    /// The value read by `parse`; `what` names it in the error.
    fn parse<T>(&self, what: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
        parse(self.text(what)?).map_err(|advice| self.invalid(what, &advice))
    }

    fn path(&self, what: &str) -> Result<PathBuf, String> {
        self.parse_path(what, value::path)
    }

    fn parse_path(&self, what: &str, parse: impl Fn(&OsStr) -> Result<PathBuf, String>) -> Result<PathBuf, String> {
        parse(self.value).map_err(|advice| self.invalid(what, &advice))
    }
}

#[derive(Debug)]
pub(super) struct Builder {
    config: Config,
    /// `-t`, `-u`, `-T`, `-U` with name and value: read last, because they depend on `-4`, `--no-tcp` and so on.
    forwards: Vec<(Opt, String, String)>,
    netns: Option<(String, OsString)>,
    netns_fd: Option<i32>,
    userns: Option<PathBuf>,
    netns_only: bool,
    socket: Option<PathBuf>,
    descriptor: Option<i32>,
    connect: Option<PathBuf>,
    one_off: bool,
    queues: Option<u8>,
    no_map_gw: bool,
    no_ra: bool,
}

impl Builder {
    pub fn new(personality: Personality, machine: bool) -> Builder {
        Builder {
            config: if machine { machine_defaults(personality) } else { defaults(personality) },
            forwards: Vec::new(),
            netns: None,
            netns_fd: None,
            userns: None,
            netns_only: false,
            socket: None,
            descriptor: None,
            connect: None,
            one_off: false,
            queues: None,
            no_map_gw: false,
            no_ra: false,
        }
    }

    pub fn has_netns(&self) -> bool {
        self.netns.is_some()
    }

    /// Takes one option. The error is one sentence.
    pub fn apply(&mut self, def: &Def, given: Given<'_>) -> Result<(), String> {
        match def.group {
            Group::Running => self.running(def.opt, given),
            Group::Addresses => self.addresses(def.opt, given),
            Group::Names => self.names(def.opt, given),
            Group::Mapping => self.mapping(def.opt, given),
            Group::Namespace => self.namespace(def.opt, given),
            Group::Ports => self.ports(def.opt, given),
            Group::Protocols => {
                self.protocols(def.opt);
                Ok(())
            }
            Group::Machines => self.machine(def.opt, given),
        }
    }

    pub fn finish(mut self, operands: Operands) -> Result<Command, String> {
        self.config.mode = self.mode(operands)?;
        let c = &mut self.config;
        let spawn = matches!(c.mode, Mode::Spawn { .. });
        if spawn {
            // The terminal belongs to the command.
            c.foreground = true;
            if c.verbosity < Verbosity::Debug {
                c.verbosity = Verbosity::Quiet;
            }
        }
        if self.no_map_gw {
            for f in [Family::V4, Family::V6] {
                if c.map_host_loopback[f] == Map::Gateway {
                    c.map_host_loopback[f] = Map::Off;
                }
            }
        }
        // Addresses and routes come from us then: advertisements would add a second set.
        c.ra = !self.no_ra && !c.config_net;
        check(c, spawn)?;
        check_queues(c, self.queues)?;
        ports::read(c, &self.forwards)?;
        let config = Box::new(self.config);
        Ok(match config.mode {
            Mode::Spawn { .. } => Command::Run(config),
            Mode::Attach { .. } => Command::Attach(config),
            Mode::Machine { .. } => Command::Machine(config),
        })
    }

    fn mode(&mut self, operands: Operands) -> Result<Mode, String> {
        let by_path = self.userns.as_ref().map(|path| format!("--userns {}", path.display()));
        let by_descriptor = self.config.userns_fd.map(|fd| format!("--userns-fd {fd}"));
        let netns_only = self.netns_only.then(|| "--netns-only".to_string());
        let given: Vec<&String> = [&by_path, &by_descriptor, &netns_only].into_iter().flatten().collect();
        if let [one, other, ..] = &*given {
            return Err(format!("Options '{one}' and '{other}' contradict each other: leave one of them out"));
        }
        let userns = self.userns.take().or(self.config.userns_fd.map(of_descriptor));
        if let Some(fd) = self.netns_fd.take() {
            return self.inherited(fd, &operands, userns);
        }
        let target = match (operands, self.netns.take()) {
            (Operands::Machine, _) => return self.plug(),
            (Operands::Spawn(command), None) => {
                return Ok(Mode::Spawn { command, userns, netns_only: self.netns_only });
            }
            (Operands::Attach(None), None) => return Err("Give the process id, path or name of a namespace".into()),
            (Operands::Attach(Some(target)), None) => target,
            (Operands::Attach(None), Some((name, value))) => {
                let given = Given { name: &name, value: &value };
                value::namespace(&value).map_err(|advice| given.invalid("namespace", &advice))?
            }
            (_, Some((name, value))) => {
                return Err(format!(
                    "Both option '{name} {}' and a process id or command given: leave one of them out",
                    value.to_string_lossy()
                ));
            }
        };
        Ok(Mode::Attach { target, userns, netns_only: self.netns_only })
    }

    /// To attach to a namespace by its descriptor.
    fn inherited(&mut self, fd: i32, operands: &Operands, userns: Option<PathBuf>) -> Result<Mode, String> {
        if let Some((name, value)) = self.netns.take() {
            let value = value.to_string_lossy();
            return Err(format!(
                "Options '{name} {value}' and '--netns-fd {fd}' contradict each other: leave one of them out"
            ));
        }
        if let Operands::Attach(Some(_)) = operands {
            return Err(format!(
                "Both option '--netns-fd {fd}' and a process id, path or name given: leave one of them out"
            ));
        }
        Ok(Mode::Attach { target: Target::Descriptor(fd), userns, netns_only: self.netns_only })
    }

    fn plug(&mut self) -> Result<Mode, String> {
        let contradict = |one: &str, other: &str| {
            Err(format!("Options '{one}' and '{other}' contradict each other: leave one of them out"))
        };
        let socket = self.socket.as_ref().map(|path| format!("--socket {}", path.display()));
        let descriptor = self.descriptor.map(|fd| format!("--fd {fd}"));
        let connect = self.connect.as_ref().map(|path| format!("--connect {}", path.display()));
        match (&socket, &descriptor, &connect) {
            (Some(one), Some(other), _) | (Some(one), None, Some(other)) | (None, Some(one), Some(other)) => {
                return contradict(one, other);
            }
            _ => {}
        }
        Ok(match (self.descriptor, self.connect.take()) {
            (Some(fd), _) => Mode::Machine { plug: Plug::Descriptor(fd), one_off: true },
            (None, Some(path)) => Mode::Machine { plug: Plug::Connect(path), one_off: true },
            (None, None) => Mode::Machine { plug: Plug::Socket(self.socket.take()), one_off: self.one_off },
        })
    }

    fn running(&mut self, opt: Opt, given: Given<'_>) -> Result<(), String> {
        let c = &mut self.config;
        match opt {
            Opt::Debug => c.verbosity = c.verbosity.max(Verbosity::Debug),
            Opt::Trace => c.verbosity = Verbosity::Trace,
            Opt::Quiet => c.verbosity = Verbosity::Quiet,
            Opt::Check => c.check = true,
            Opt::Json => c.json = true,
            Opt::Foreground => c.foreground = true,
            Opt::Stats => c.stats_secs = Some(given.parse("interval", value::seconds)?),
            Opt::LogFile => c.log_file = Some(given.path("log file")?),
            Opt::LogFd => c.log_fd = Some(given.parse("descriptor", value::own_descriptor)?),
            Opt::LogFormat => c.log_format = given.parse("log format", value::log_format)?,
            Opt::LogSize => c.log_size_bytes = given.parse("log size", value::log_size)?,
            Opt::RunAs => c.runas = Some(given.parse("user", value::runas)?),
            Opt::ConfPath => c.conf_path = Some(given.path("socket path")?),
            Opt::Control if given.value == "none" => c.control = Control::Off,
            Opt::Control => c.control = Control::At(given.path("socket path")?),
            Opt::Pcap => c.pcap = Some(given.path("capture file")?),
            Opt::Pid => c.pid_file = Some(given.path("PID file")?),
            Opt::ReadyFd => c.ready_fd = Some(given.parse("descriptor", value::own_descriptor)?),
            Opt::ExitFd => c.exit_fd = Some(given.parse("descriptor", value::own_descriptor)?),
            Opt::ChrootFallback => c.chroot_fallback = true,
            Opt::AllowDegraded => c.lacks = Lacks::DEGRADED,
            Opt::Threads => c.threads = Some(given.parse("number of threads", value::queues)?),
            _ => {}
        }
        Ok(())
    }

    fn addresses(&mut self, opt: Opt, given: Given<'_>) -> Result<(), String> {
        let c = &mut self.config;
        match opt {
            Opt::Mtu => c.mtu = given.parse("MTU", value::mtu)?,
            Opt::Address => {
                let assign = given.parse("address", value::assign)?;
                c.addresses[assign.addr.family()] = Some(assign);
            }
            Opt::Netmask => c.netmask = Some(given.parse("netmask", value::netmask)?),
            Opt::MacAddr => c.our_mac = given.parse("MAC address", value::mac)?,
            Opt::NsMacAddr => c.ns_mac = Some(given.parse("MAC address", value::mac)?),
            Opt::Gateway => set(&mut c.gateway, given.parse("gateway", value::unicast)?),
            Opt::Interface => c.interface = Some(given.parse("interface", value::interface)?),
            Opt::NoFollow => c.follow = false,
            Opt::Outbound => set(&mut c.outbound_addr, given.parse("source address", value::unicast_or_loopback)?),
            Opt::OutboundIf4 => c.outbound_if.v4 = Some(given.parse("interface", value::interface)?),
            Opt::OutboundIf6 => c.outbound_if.v6 = Some(given.parse("interface", value::interface)?),
            Opt::NsIfname => c.ns_ifname = Some(given.parse("interface name", value::new_interface)?),
            Opt::Queues => self.queues = Some(given.parse("number of queues", value::queues)?),
            _ => {}
        }
        Ok(())
    }

    fn names(&mut self, opt: Opt, given: Given<'_>) -> Result<(), String> {
        let c = &mut self.config;
        match opt {
            Opt::Dns if given.value == "none" => c.dns = Dns::None,
            Opt::Dns => self.add_server(given)?,
            Opt::DnsForward => set(&mut c.dns_forward, given.parse("DNS forward address", value::unicast)?),
            Opt::DnsHost => set(&mut c.dns_host, given.parse("name server", value::unicast_or_loopback)?),
            Opt::Search if given.value == "none" => c.search = Search::None,
            Opt::Search => self.add_domains(given)?,
            Opt::DhcpDns => c.dhcp_dns = true,
            Opt::NoDhcpDns => c.dhcp_dns = false,
            Opt::DhcpSearch => c.dhcp_search = true,
            Opt::NoDhcpSearch => c.dhcp_search = false,
            Opt::Hostname => c.hostname = Some(given.parse("host name", value::domain)?),
            Opt::Fqdn => c.fqdn = Some(given.parse("host name", value::domain)?),
            _ => {}
        }
        Ok(())
    }

    fn add_server(&mut self, given: Given<'_>) -> Result<(), String> {
        let parsed = given.parse("name server", value::unicast_or_loopback);
        let server =
            parsed.map_err(|e| e.replace("give an IPv4 or IPv6 address", "give an IPv4 or IPv6 address, or 'none'"))?;
        let c = &mut self.config;
        let mut servers = match std::mem::replace(&mut c.dns, Dns::None) {
            Dns::Servers(servers) => servers,
            Dns::FromHost | Dns::None => Vec::new(),
        };
        if servers.iter().filter(|s| s.family() == server.family()).count() < Dns::MAX_PER_FAMILY {
            servers.push(server);
        } else {
            let max = Dns::MAX_PER_FAMILY;
            c.warnings.push(format!("Name server '{server}' is not used: {max} of its IP version are given before it"));
        }
        c.dns = Dns::Servers(servers);
        Ok(())
    }

    /// Several names in one value, separated by spaces, are what older callers give.
    fn add_domains(&mut self, given: Given<'_>) -> Result<(), String> {
        let text = given.text("search domain")?;
        let c = &mut self.config;
        let mut domains = match std::mem::replace(&mut c.search, Search::None) {
            Search::Domains(domains) => domains,
            Search::FromHost | Search::None => Vec::new(),
        };
        // A value of spaces is one empty, hence invalid, name.
        let names = if text.trim().is_empty() { vec![""] } else { text.split_whitespace().collect() };
        for name in names {
            let name = value::domain(name).map_err(|advice| given.invalid("search domain", &advice))?;
            if domains.len() < Search::MAX {
                domains.push(name);
            } else {
                c.warnings.push(format!("Search domain '{name}' is not used: {} are given before it", Search::MAX));
            }
        }
        c.search = Search::Domains(domains);
        Ok(())
    }

    fn mapping(&mut self, opt: Opt, given: Given<'_>) -> Result<(), String> {
        let c = &mut self.config;
        match opt {
            Opt::NoMapGw => self.no_map_gw = true,
            Opt::MapHostLoopback if given.value == "none" => c.map_host_loopback = PerFamily::new(Map::Off, Map::Off),
            Opt::MapHostLoopback => {
                let addr = given.parse("address", value::unicast)?;
                c.map_host_loopback[addr.family()] = Map::To(addr);
            }
            Opt::MapGuestAddr if given.value == "none" => c.map_guest_addr = PerFamily::default(),
            Opt::MapGuestAddr => set(&mut c.map_guest_addr, given.parse("address", value::unicast)?),
            _ => {}
        }
        Ok(())
    }

    fn namespace(&mut self, opt: Opt, given: Given<'_>) -> Result<(), String> {
        let c = &mut self.config;
        match opt {
            Opt::Userns => self.userns = Some(given.path("user namespace")?),
            Opt::Netns => self.netns = Some((given.name.into(), given.value.into())),
            Opt::UsernsFd => c.userns_fd = Some(given.parse("descriptor", value::descriptor)?),
            Opt::NetnsFd => self.netns_fd = Some(given.parse("descriptor", value::descriptor)?),
            Opt::NetnsOnly => self.netns_only = true,
            Opt::NoNetnsQuit => c.netns_quit = false,
            Opt::NoPidns => c.pidns = false,
            Opt::ConfigNet => c.config_net = true,
            Opt::NoConfigNet => c.config_net = false,
            Opt::NoCopyRoutes => c.no_copy_routes = true,
            Opt::NoCopyAddrs => c.no_copy_addrs = true,
            _ => {}
        }
        Ok(())
    }

    fn machine(&mut self, opt: Opt, given: Given<'_>) -> Result<(), String> {
        match opt {
            Opt::Socket => self.socket = Some(given.parse_path("socket path", value::socket_path)?),
            Opt::Connect => self.connect = Some(given.parse_path("socket path", value::socket_path)?),
            Opt::Fd => self.descriptor = Some(given.parse("descriptor", value::own_descriptor)?),
            Opt::OneOff => self.one_off = true,
            Opt::VhostUser => self.config.vhost_user = true,
            // The default makes one beside the socket, which is of use to migration only.
            Opt::RepairPath if given.value == "none" => {}
            Opt::RepairPath => self.config.migration = Some("--repair-path"),
            Opt::MigrateExit => self.config.migration = Some("--migrate-exit"),
            Opt::MigrateNoLinger => self.config.migration = Some("--migrate-no-linger"),
            _ => {}
        }
        Ok(())
    }

    fn ports(&mut self, opt: Opt, given: Given<'_>) -> Result<(), String> {
        let c = &mut self.config;
        match opt {
            Opt::Freebind => c.freebind = true,
            Opt::HostLoToNsLo => c.host_lo_to_ns_lo = true,
            Opt::NoSplice => c.splice = false,
            Opt::SpliceOnly => c.splice_only = true,
            Opt::TcpPorts | Opt::UdpPorts | Opt::TcpNs | Opt::UdpNs => {
                let text = given.text("port specification")?;
                // Read now for the error, and again when the rest is known.
                let outbound = matches!(opt, Opt::TcpNs | Opt::UdpNs);
                ports::parse(opt, text, outbound).map_err(|advice| given.invalid("port specification", &advice))?;
                self.forwards.push((opt, given.name.into(), text.into()));
            }
            _ => {}
        }
        Ok(())
    }

    fn protocols(&mut self, opt: Opt) {
        let c = &mut self.config;
        match opt {
            Opt::NoTcp => c.tcp = false,
            Opt::NoUdp => c.udp = false,
            Opt::NoIcmp => c.icmp = false,
            Opt::NoDhcp => c.dhcp = false,
            Opt::NoNdp => c.ndp = false,
            Opt::NoDhcpv6 => c.dhcpv6 = false,
            Opt::NoRa => self.no_ra = true,
            Opt::Ipv4Only => (c.v4, c.v6) = (true, false),
            Opt::Ipv6Only => (c.v4, c.v6) = (false, true),
            _ => {}
        }
    }
}

/// Where it can be opened once more.
fn of_descriptor(fd: i32) -> PathBuf {
    format!("/proc/self/fd/{fd}").into()
}

fn set(both: &mut PerFamily<Option<Addr>>, addr: Addr) {
    both[addr.family()] = Some(addr);
}

/// Options that contradict each other.
fn check(c: &mut Config, spawn: bool) -> Result<(), String> {
    let refusals = [
        (
            c.netmask.is_some() && c.addresses.v4.is_some_and(|a| a.prefix.is_some()),
            "Option '--netmask' and a prefix length in '--address' say the same: leave one of them out",
        ),
        (c.ns_mac == Some(c.our_mac), "Options '--mac-addr' and '--ns-mac-addr' need different addresses"),
        (!spawn && !c.pidns, "Option '--no-pidns' is for a spawned command only: leave it out"),
        (
            c.log_file.is_some() && c.log_fd.is_some(),
            "Options '--log-file' and '--log-fd' contradict each other: leave one of them out",
        ),
        (
            c.stats_secs.is_some() && !c.foreground,
            "Option '--stats' prints to the terminal: it needs '--foreground' as well",
        ),
        (
            c.json && spawn && !c.check,
            "Option '--json' prints to standard output, which is the command's here: give it together with '--check'",
        ),
        (
            (c.no_copy_routes || c.no_copy_addrs) && !c.config_net,
            "Options '--no-copy-routes' and '--no-copy-addrs' need '--config-net' as well",
        ),
        (
            c.host_lo_to_ns_lo && !c.splice,
            "Options '--host-lo-to-ns-lo' and '--no-splice' contradict each other: leave one of them out",
        ),
        (
            c.splice_only && !c.splice,
            "Options '--splice-only' and '--no-splice' contradict each other: leave one of them out",
        ),
    ];
    if let Some((_, sentence)) = refusals.into_iter().find(|(refused, _)| *refused) {
        return Err(sentence.into());
    }
    let deprecated = [(c.no_copy_routes, "--no-copy-routes", "-g"), (c.no_copy_addrs, "--no-copy-addrs", "-a")];
    for (given, name, instead) in deprecated {
        if given {
            c.warnings.push(format!("Option '{name}' is deprecated: use '{instead}' to say what is set instead"));
        }
    }
    if c.v6 && c.mtu != 0 && c.mtu < Config::IPV6_MTU_MIN {
        let least = Config::IPV6_MTU_MIN;
        c.warnings.push(format!("MTU {} is below {least}, so IPv6 will not work on this link", c.mtu));
    }
    Ok(())
}

/// Queues of the tap, which only a namespace has, and threads, each of which needs a queue.
fn check_queues(c: &mut Config, queues: Option<u8>) -> Result<(), String> {
    let threads = c.threads.unwrap_or(1);
    if let Mode::Machine { .. } = c.mode {
        return match queues {
            Some(n) => Err(format!(
                "Option '--queues {n}' is for namespaces; of a virtual machine the hypervisor decides how many queues it \
                 has: leave it out"
            )),
            None if threads > 1 && !c.vhost_user => Err(format!(
                "Option '--threads {threads}' needs '--vhost-user' as well: a socket that carries frames has one queue"
            )),
            None => Ok(()),
        };
    }
    // Each thread needs one.
    c.queues = queues.or((threads > 1).then_some(threads));
    match c.queues {
        Some(n) if c.splice_only && n > 1 => {
            Err("Option '--splice-only' makes no interface: leave out '--queues' and '--threads'".into())
        }
        Some(n) if threads > n => {
            Err(format!("Option '--threads {threads}' needs as many queues, not {n}: give '--queues {threads}'"))
        }
        _ => Ok(()),
    }
}
