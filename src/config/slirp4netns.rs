//! The slirp4netns command line (its manual page, version 1.2): what callers of that program give and expect.
//!
//! It means an existing namespace, served in the foreground, with a network of its own: in 10.0.2.0/24 the guest is .100,
//! the gateway and the host .2, the name server .3; with IPv6 the same in fd00::/64. Where that program prints its whole
//! help after a mistake, this one says in a sentence what to do.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::defaults::defaults;
use super::described::Described;
use super::getopt::{Def, Getopt, Item, Order, def};
use super::types::{Assign, Command, Config, Dns, Exit, Lack, Map, Mode, Personality, Search, Target, Verbosity};
use super::value::{self, MTU_MAX, MTU_MIN};
use crate::base::{Addr, Family, PerFamily};

pub(super) fn parse(argv0: &OsStr, args: Vec<OsString>) -> Result<Command, Exit> {
    let refuse = |sentence: String| Exit { message: format!("slirp4netns: {sentence}"), status: 1 };
    let mut face = Face::new();
    let mut operands = Vec::new();
    for item in Getopt::new(argv0, args, OPTIONS.iter(), Order::Mixed) {
        match item {
            Ok(Item::Option { def, .. }) if def.opt == Opt::Help => return Ok(print(usage())),
            Ok(Item::Option { def, .. }) if def.opt == Opt::Version => return Ok(print(version())),
            Ok(Item::Option { def, name, value }) => face.apply(def.opt, &name, &value).map_err(refuse)?,
            Ok(Item::Operands(rest)) => operands = rest,
            Err(complaint) => return Err(Exit { message: format!("{complaint}\n{HINT}"), status: 1 }),
        }
    }
    let config = face.finish(&operands).map_err(refuse)?;
    Ok(Command::Attach(Box::new(config)))
}

impl Config {
    /// What callers of slirp4netns find on standard output: they log it, and people read the addresses from it.
    pub fn banner(&self) -> Option<String> {
        let guest = self.addresses.v4.filter(|_| self.personality == Personality::Slirp4netns)?;
        let addr = |a: Option<Addr>| a.map_or_else(|| "none".to_string(), |a| a.to_string());
        let len = guest.prefix.unwrap_or_default();
        let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0));
        let mut text = format!(
            "Starting slirp\n* MTU:             {}\n* Network:         {}\n* Netmask:         {mask}\n\
             * Gateway:         {}\n* DNS:             {}\n* Recommended IP:  {}\n",
            self.mtu,
            guest.addr.masked(len),
            addr(self.gateway.v4),
            addr(self.dns_forward.v4),
            guest.addr,
        );
        if let Some(path) = &self.api_socket {
            text.push_str(&format!("* API Socket:      {}\n", path.display()));
        }
        if self.map_host_loopback.v4 != Map::Off {
            text.push_str(&format!(
                "WARNING: 127.0.0.1:* on the host is accessible as {} (set --disable-host-loopback to prohibit \
                 connecting to 127.0.0.1:*)\n",
                addr(self.gateway.v4)
            ));
        }
        Some(text)
    }
}

/// What the options said so far.
struct Face {
    config: Config,
    cidr: (Ipv4Addr, u8),
    userns: Option<PathBuf>,
    by_path: bool,
    dns: bool,
}

impl Face {
    fn new() -> Face {
        let config = Config {
            foreground: true,
            // The banner says it on standard output.
            verbosity: Verbosity::Quiet,
            mtu: MTU_DEFAULT,
            ns_ifname: Some(TAP_DEFAULT.into()),
            search: Search::None,
            dhcp_dns: true,
            v6: false,
            // Ports are forwarded to an address of the guest's interface, for every client.
            splice: false,
            loopback_clients: true,
            linger: LINGER,
            ..defaults(Personality::Slirp4netns)
        };
        Face { config, cidr: (Ipv4Addr::new(10, 0, 2, 0), 24), userns: None, by_path: false, dns: true }
    }

    fn apply(&mut self, opt: Opt, name: &str, given: &OsStr) -> Result<(), String> {
        let shown = given.to_string_lossy();
        let invalid = |what: &str, advice: &str| format!("Invalid {what} '{shown}' for option '{name}': {advice}");
        let text = || given.to_str().ok_or_else(|| invalid("value", "it is not UTF-8 text"));
        let c = &mut self.config;
        match opt {
            Opt::Configure => c.config_net = true,
            Opt::ExitFd => c.exit_fd = Some(value::descriptor(text()?).map_err(|a| invalid("exit-fd", &a))?),
            Opt::ReadyFd => c.ready_fd = Some(value::descriptor(text()?).map_err(|a| invalid("ready-fd", &a))?),
            Opt::Mtu => c.mtu = mtu(text()?).map_err(|a| invalid("MTU", &a))?,
            Opt::Cidr => self.cidr = cidr(text()?).map_err(|a| invalid("network", &a))?,
            Opt::DisableHostLoopback => c.map_host_loopback = PerFamily::new(Map::Off, Map::Off),
            Opt::ApiSocket => c.api_socket = Some(value::path(given).map_err(|a| invalid("socket path", &a))?),
            Opt::EnableIpv6 => c.v6 = true,
            Opt::DisableDns => self.dns = false,
            Opt::OutboundAddr => outbound(c, Family::V4, text()?).map_err(|a| invalid("source address", &a))?,
            Opt::OutboundAddr6 => outbound(c, Family::V6, text()?).map_err(|a| invalid("source address", &a))?,
            Opt::MacAddress => c.ns_mac = Some(value::mac(text()?).map_err(|a| invalid("MAC address", &a))?),
            Opt::NetnsType => match text()? {
                "path" => self.by_path = true,
                "pid" => self.by_path = false,
                _ => return Err(invalid("type", "give 'path' or 'pid'")),
            },
            Opt::TargetType => match text()? {
                "netns" => {}
                "bess" => return Err(invalid("type", "User Mode Linux is not served: give 'netns'")),
                _ => return Err(invalid("type", "give 'netns'")),
            },
            Opt::UsernsPath => {
                self.userns = Some(value::path(given).map_err(|a| invalid("user namespace", &a))?);
            }
            // Both are always on, as far as the kernel has them; asked for, they must be there.
            Opt::EnableSandbox => c.lacks.namespaces = Lack::Fatal,
            Opt::EnableSeccomp => c.lacks.filter = Lack::Fatal,
            Opt::Help | Opt::Version => {}
        }
        Ok(())
    }

    fn finish(mut self, operands: &[OsString]) -> Result<Config, String> {
        let target = self.target(operands.first())?;
        let c = &mut self.config;
        c.mode = Mode::Attach { target, userns: self.userns.take(), netns_only: false };
        if let Some(tap) = operands.get(1) {
            let name = tap.to_string_lossy();
            let checked = value::new_interface(&name).map_err(|a| format!("Invalid interface name '{name}': {a}"))?;
            c.ns_ifname = Some(checked);
        }
        if let Some(extra) = operands.get(2) {
            c.warnings.push(format!("Argument '{}' and what follows it are not used", extra.to_string_lossy()));
        }
        if c.ns_mac.is_some() && !c.config_net {
            return Err("Option '--macaddress' needs '--configure' as well".into());
        }
        if c.ns_mac == Some(c.our_mac) {
            return Err(format!("Option '--macaddress' names our own address {}: give another", c.our_mac));
        }
        // The caller says when it is over; without its word it is over soon after the namespace, as nobody else
        // may end us.
        c.netns_quit = c.exit_fd.is_none();
        c.ra = !c.config_net;
        self.network();
        Ok(self.config)
    }

    fn target(&self, operand: Option<&OsString>) -> Result<Target, String> {
        let kind = if self.by_path { "path" } else { "process id" };
        let Some(operand) = operand else {
            return Err(format!(
                "Give the {kind} of a network namespace, and the name of the interface to make; {HINT}"
            ));
        };
        let shown = operand.to_string_lossy();
        if self.by_path {
            let path = value::path(operand).map_err(|a| format!("Invalid network namespace '{shown}': {a}"))?;
            return Ok(Target::Path(path));
        }
        match value::pid(operand) {
            Some(Ok(pid)) => Ok(Target::Pid(pid)),
            Some(Err(advice)) => Err(format!("Invalid process id '{shown}': {advice}")),
            None => Err(format!("Invalid process id '{shown}': give a number, or '--netns-type=path' as well")),
        }
    }

    /// Addresses from the network's number.
    fn network(&mut self) {
        let (base, len) = self.cidr;
        let v4 = |n: u32| Addr::from(Ipv4Addr::from(u32::from(base) + n));
        let c = &mut self.config;
        c.addresses.v4 = Some(Assign { addr: v4(GUEST_V4), prefix: Some(len) });
        c.gateway.v4 = Some(v4(GATEWAY));
        let mut servers = vec![v4(NAME_SERVER)];
        if c.v6 {
            c.addresses.v6 = Some(Assign { addr: fd00(GUEST_V6), prefix: Some(64) });
            c.gateway.v6 = Some(fd00(GATEWAY as u16));
            servers.push(fd00(NAME_SERVER as u16));
        }
        if !self.dns {
            c.dns = Dns::None;
            return;
        }
        for server in &servers {
            c.dns_forward[server.family()] = Some(*server);
        }
        c.dns = Dns::Servers(servers);
    }
}

fn fd00(last: u16) -> Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into()
}

/// 0 has no meaning here.
fn mtu(text: &str) -> Result<u16, String> {
    let advice = || format!("give a number from {MTU_MIN} to {MTU_MAX}");
    value::mtu(text).ok().filter(|mtu| *mtu != 0).ok_or_else(advice)
}

fn cidr(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let (addr, len) = text.split_once('/').ok_or("give a network and its prefix length, such as 10.0.2.0/24")?;
    let addr: Ipv4Addr = addr.parse().map_err(|_| "give an IPv4 network, such as 10.0.2.0/24")?;
    let len = value::netmask(len).ok().filter(|n| (1..=CIDR_LEN_MAX).contains(n));
    // .100 has to be one of its addresses.
    let len = len.ok_or_else(|| format!("give a prefix length from 1 to {CIDR_LEN_MAX}"))?;
    if u32::from(addr) << len != 0 {
        let network = Addr::from(addr).masked(len);
        return Err(format!("that is an address in the network {network}/{len}: give the network"));
    }
    value::unicast(&Ipv4Addr::from(u32::from(addr) + GUEST_V4).to_string())?;
    Ok((addr, len))
}

/// An address of the host, or one of its interfaces.
fn outbound(c: &mut Config, family: Family, text: &str) -> Result<(), String> {
    if let Ok(addr) = value::unicast_or_loopback(text) {
        c.outbound_addr[addr.family()] = Some(addr);
        return Ok(());
    }
    let name = value::interface(text).map_err(|_| "give an address or an interface of this host")?;
    c.outbound_if[family] = Some(name);
    Ok(())
}

fn print(text: String) -> Command {
    Command::Print { text, stdout: true, status: 0 }
}

/// The first two lines are read by programs: what this is compatible with, and what it is.
fn version() -> String {
    let own = super::version();
    format!(
        "slirp4netns version {COMPATIBLE}\ncommit: {}\nThis is {own}, under MIT OR Apache-2.0\n",
        own.replace(' ', "-")
    )
}

/// For the manual page.
pub(super) fn options() -> impl Iterator<Item = Described> {
    OPTIONS.iter().map(Def::described)
}

fn usage() -> String {
    let mut text = String::from(USAGE);
    for def in OPTIONS {
        let short = def.short.map_or_else(String::new, |c| format!("-{c}, "));
        let value = def.value.map_or_else(String::new, |v| format!("={v}"));
        text.push_str(&format!("{:<26} {}\n", format!("{short}--{}{value}", def.long), def.help));
    }
    text
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opt {
    Configure,
    ExitFd,
    ReadyFd,
    Mtu,
    EnableIpv6,
    ApiSocket,
    Cidr,
    DisableHostLoopback,
    NetnsType,
    UsernsPath,
    EnableSandbox,
    EnableSeccomp,
    OutboundAddr,
    OutboundAddr6,
    DisableDns,
    MacAddress,
    TargetType,
    Help,
    Version,
}

/// Callers look for the names of options in the help text to learn what there is.
static OPTIONS: &[Def<Opt>] = &[
    def(Opt::Configure, Some('c'), "configure", None, "set address, routes and MTU inside, and bring the interface up"),
    def(Opt::ExitFd, Some('e'), "exit-fd", Some("FD"), "end when the other end of this descriptor is closed"),
    def(Opt::ReadyFd, Some('r'), "ready-fd", Some("FD"), "write \"1\" to this descriptor when all is ready"),
    def(Opt::Mtu, Some('m'), "mtu", Some("MTU"), "MTU of the interface (default=1500, max=65521)"),
    def(Opt::EnableIpv6, Some('6'), "enable-ipv6", None, "IPv6 as well, in fd00::/64"),
    def(Opt::ApiSocket, Some('a'), "api-socket", Some("PATH"), "socket for requests to forward ports"),
    def(Opt::Cidr, None, "cidr", Some("CIDR"), "network of the guest (default=10.0.2.0/24)"),
    def(
        Opt::DisableHostLoopback,
        None,
        "disable-host-loopback",
        None,
        "do not lead the gateway's address to 127.0.0.1",
    ),
    def(Opt::NetnsType, None, "netns-type", Some("TYPE"), "what names the namespace ([path|pid], default=pid)"),
    def(Opt::UsernsPath, None, "userns-path", Some("PATH"), "user namespace to enter (default: the owner's)"),
    def(Opt::EnableSandbox, None, "enable-sandbox", None, "fail where the isolation that is always on is impossible"),
    def(Opt::EnableSeccomp, None, "enable-seccomp", None, "fail where the filter that is always on is impossible"),
    def(Opt::OutboundAddr, None, "outbound-addr", Some("IPv4|INTERFACE"), "where connections come from"),
    def(Opt::OutboundAddr6, None, "outbound-addr6", Some("IPv6|INTERFACE"), "the same for IPv6"),
    def(Opt::DisableDns, None, "disable-dns", None, "no name server at 10.0.2.3 and fd00::3"),
    def(Opt::MacAddress, None, "macaddress", Some("MAC"), "MAC address of the interface (only with -c)"),
    def(Opt::TargetType, None, "target-type", Some("TYPE"), "what to serve ([netns], default=netns)"),
    def(Opt::Help, Some('h'), "help", None, "show this help and exit"),
    def(Opt::Version, Some('v'), "version", None, "show the version and exit"),
];

const USAGE: &str = "\
Usage: slirp4netns [OPTION]... PID|PATH [TAPNAME]
Connects a network namespace, without any privilege, until the namespace or the caller ends.

";
/// Callers take the namespace away and then end a process that they know to be there: Podman complains if it is not.
const LINGER: Duration = Duration::from_secs(5);
const HINT: &str = "'slirp4netns --help' tells more";
/// What the manual page of that version documents is there.
const COMPATIBLE: &str = "1.2.0";
const TAP_DEFAULT: &str = "tap0";
const MTU_DEFAULT: u16 = 1500;
const CIDR_LEN_MAX: u8 = 25;
/// Numbers in the network.
const GATEWAY: u32 = 2;
const NAME_SERVER: u32 = 3;
const GUEST_V4: u32 = 100;
/// In hexadecimal as they stand in the address: fd00::100.
const GUEST_V6: u16 = 0x100;
