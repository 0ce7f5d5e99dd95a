//! The command lines of `spelt respond` and `spelt announce`.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

use super::core::{Settings, Uplink};
use super::engine::Engine;
use super::ndppd::{self, BYTES_MAX};
use super::rules::{Method, Patience, Rules};
use crate::base::{Addr, Mac, Prefix};
use crate::config::{Control, RunAs, Verbosity};

/// Tell a link's neighbours where addresses are now: gratuitous ARP, unsolicited neighbour advertisements
#[derive(Debug, Parser)]
#[command(name = "announce", display_name = "spelt announce", bin_name = "spelt announce", after_help = ANNOUNCE_EXAMPLES)]
pub struct Announce {
    /// Link to announce on
    #[arg(short, long, value_name = "IFACE")]
    pub interface: String,
    /// Addresses, IPv4 or IPv6
    #[arg(value_name = "ADDR", required = true, value_parser = unicast)]
    pub addresses: Vec<Addr>,
    /// How often to tell each of them
    #[arg(short, long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub count: u32,
    /// Time from one round to the next
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub interval: Duration,
    /// Tell IPv4 addresses by ARP replies, not by requests
    #[arg(long)]
    pub reply: bool,
    /// Say that this host is a router, of IPv6 addresses
    #[arg(long)]
    pub router: bool,
    /// Where the addresses are [default: the link's own MAC]
    #[arg(long, value_name = "MAC", value_parser = mac)]
    pub mac: Option<Mac>,
}

/// Answer neighbour solicitations and ARP requests for others: public addresses for containers behind this host
#[derive(Debug, Parser)]
#[command(name = "respond", display_name = "spelt respond", bin_name = "spelt respond", after_help = RESPOND_EXAMPLES)]
pub struct Respond {
    /// Link whose questions are answered
    #[arg(short, long, value_name = "IFACE", required_unless_present = "config", help_heading = "For whom")]
    pub interface: Option<String>,
    /// IPv6 prefix, or address, to answer for; can be given often
    #[arg(short, long, value_name = "PREFIX", value_parser = v6_prefix, help_heading = "For whom")]
    pub subnet: Vec<Prefix>,
    /// The same of IPv4, by ARP
    #[arg(short, long, value_name = "PREFIX", value_parser = v4_prefix, help_heading = "For whom")]
    pub arp: Vec<Prefix>,
    /// Do not answer for these
    #[arg(short = 'x', long, value_name = "PREFIX", value_parser = prefix, help_heading = "For whom")]
    pub exclude: Vec<Prefix>,
    /// Read interfaces and prefixes from a file of ndppd's form
    #[arg(short, long, value_name = "FILE", help_heading = "For whom",
          conflicts_with_all = ["interface", "subnet", "arp", "exclude", "when", "timeout", "retries", "ttl",
                                "deadtime", "keep_alive", "router"])]
    pub config: Option<PathBuf>,

    /// Only if the kernel has a route to it by another link, and it answers there
    #[arg(long, group = "when", help_heading = "When")]
    pub auto: bool,
    /// Only if it answers on this link
    #[arg(long, value_name = "IFACE", group = "when", help_heading = "When")]
    pub via: Option<String>,
    /// Only if a container of this network of Podman's has it; PREFIX is then anything, if not given
    #[arg(long, value_name = "NAME", value_parser = network, group = "when", help_heading = "When")]
    pub podman_network: Vec<String>,
    /// The same of Docker's
    #[arg(long, value_name = "NAME", value_parser = network, group = "when", help_heading = "When")]
    pub docker_network: Vec<String>,
    /// Where the engine is asked [default: /run/podman/podman.sock or /run/docker.sock]
    #[arg(long, value_name = "PATH", help_heading = "When")]
    pub engine_socket: Option<PathBuf>,
    /// How long to wait for such an answer, before asking again
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds, help_heading = "When")]
    pub timeout: Duration,
    /// How often to ask
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "When",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub retries: u32,
    /// How long to believe that it is there
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds, help_heading = "When")]
    pub ttl: Duration,
    /// How long to believe that it is not
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds, help_heading = "When")]
    pub deadtime: Duration,
    /// Ask again before that is over, without having been asked
    #[arg(long, help_heading = "When")]
    pub keep_alive: bool,

    /// Say that who is answered for is a router
    #[arg(long, help_heading = "How")]
    pub router: bool,
    /// Solicit routers from each address, for providers that learn only from what a host sends
    #[arg(long, help_heading = "How")]
    pub announce_to_router: bool,
    /// How often
    #[arg(long, value_name = "SECONDS", default_value = "14", value_parser = seconds, help_heading = "How")]
    pub announce_interval: Duration,
    /// Questions of one station that are heard in a second
    #[arg(long, value_name = "N", default_value_t = 20_000, help_heading = "How",
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate_limit: u32,

    /// Say whether this would start, and do not
    #[arg(long, help_heading = "Running")]
    pub check: bool,
    /// Log only warnings and errors
    #[arg(short, long, help_heading = "Running")]
    pub quiet: bool,
    /// Log more
    #[arg(short, long, help_heading = "Running")]
    pub debug: bool,
    /// Log to this file, of 1 MiB at most
    #[arg(short, long, value_name = "FILE", help_heading = "Running")]
    pub log_file: Option<PathBuf>,
    /// Write the process id here when all is ready
    #[arg(short, long, value_name = "FILE", help_heading = "Running")]
    pub pid_file: Option<PathBuf>,
    /// Control socket, or 'none'
    #[arg(long, value_name = "PATH|none", help_heading = "Running")]
    pub control: Option<PathBuf>,
    /// User to become [default: nobody, if started as root]
    #[arg(long, value_name = "UID|UID:GID|LOGIN|LOGIN:GROUP", value_parser = crate::config::runas, help_heading = "Running")]
    pub runas: Option<RunAs>,
    /// Start where the kernel lacks a part of the isolation
    #[arg(long, help_heading = "Running")]
    pub allow_degraded: bool,
    /// Where pivot_root is impossible, use chroot
    #[arg(long, help_heading = "Running")]
    pub chroot_fallback: bool,
}

impl Respond {
    /// What is asked for, by a file or by options for one link.
    ///
    /// # Errors
    /// The file cannot be read, or not be honoured.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let Some(path) = &self.config else { return Ok(self.one_link()) };
        let file = || format!("the configuration file '{}'", path.display());
        let mut bytes = Vec::new();
        let opened = File::open(path).with_context(|| format!("cannot open {}", file()))?;
        opened.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", file()))?;
        let text = String::from_utf8(bytes).with_context(|| format!("{} is no text", file()))?;
        let found = ndppd::parse(&text).map_err(anyhow::Error::msg).with_context(file)?;
        Ok(self.with(found.uplinks, found.behind))
    }

    fn one_link(&self) -> Settings {
        let containers = self.engine().is_some();
        let method = match (&self.via, self.auto) {
            (Some(_), _) => Method::Via(0),
            (None, true) => Method::Auto,
            (None, false) if containers => Method::Containers,
            (None, false) => Method::Static,
        };
        let mut rules = Rules::default();
        if containers && self.subnet.is_empty() {
            rules.serve(Prefix::any(crate::base::Family::V6), method);
        }
        self.subnet.iter().chain(&self.arp).for_each(|prefix| rules.serve(*prefix, method));
        self.exclude.iter().for_each(|prefix| rules.exclude(*prefix));
        let uplink = Uplink {
            name: self.interface.clone().unwrap_or_default(),
            rules,
            patience: self.patience(),
            router: self.router,
        };
        self.with(vec![uplink], self.via.iter().cloned().collect())
    }

    /// Whose container networks are followed.
    pub fn engine(&self) -> Option<Engine> {
        let (networks, default) = match (&self.podman_network, &self.docker_network) {
            (none, networks) if none.is_empty() => (networks, "/run/docker.sock"),
            (networks, _) => (networks, "/run/podman/podman.sock"),
        };
        let socket = self.engine_socket.clone().unwrap_or_else(|| default.into());
        (!networks.is_empty()).then(|| Engine { socket, networks: networks.clone() })
    }

    fn patience(&self) -> Patience {
        Patience {
            timeout: self.timeout,
            tries: self.retries,
            ttl: self.ttl,
            absent: self.deadtime,
            keep_alive: self.keep_alive,
        }
    }

    /// What is the same for all links.
    fn with(&self, uplinks: Vec<Uplink>, behind: Vec<String>) -> Settings {
        let to_router = self.announce_to_router.then_some(self.announce_interval);
        Settings { uplinks, behind, rate: self.rate_limit, to_router }
    }

    pub fn verbosity(&self) -> Verbosity {
        match (self.debug, self.quiet) {
            (true, _) => Verbosity::Debug,
            (_, true) => Verbosity::Quiet,
            _ => Verbosity::Normal,
        }
    }

    pub fn control(&self) -> Control {
        match &self.control {
            None => Control::Default,
            Some(path) if path.as_os_str() == "none" => Control::Off,
            Some(path) => Control::At(path.clone()),
        }
    }
}

/// An address that a neighbour can have.
pub fn unicast(text: &str) -> Result<Addr, String> {
    let addr: Addr = text.parse::<IpAddr>().map_err(|_| "give an IPv4 or IPv6 address".to_string())?.into();
    if addr.is_unicast() && !addr.is_loopback() { Ok(addr) } else { Err("no neighbour has this address".into()) }
}

/// `fe80::/10` and groups are nobody's to answer for.
pub fn prefix(text: &str) -> Result<Prefix, String> {
    let (addr, len) = match text.split_once('/') {
        Some((addr, len)) => (addr, Some(len)),
        None => (text, None),
    };
    let addr: Addr = addr.parse::<IpAddr>().map_err(|_| "give ADDRESS or ADDRESS/LENGTH".to_string())?.into();
    let whole = if addr.is_v4() { 32 } else { 128 };
    let len = match len {
        None => whole,
        Some(len) => len.parse().ok().filter(|n| *n <= whole).ok_or(format!("the length is 0 to {whole}"))?,
    };
    let prefix = Prefix::new(addr, len).network();
    if prefix.addr.is_multicast() || prefix.addr.is_loopback() || (len > 8 && prefix.addr.is_link_local()) {
        return Err("nobody can be answered for there".into());
    }
    if prefix == Prefix::new(addr, len) { Ok(prefix) } else { Err(format!("it has bits beyond its length: {prefix}?")) }
}

pub fn v6_prefix(text: &str) -> Result<Prefix, String> {
    prefix(text).and_then(|p| if p.addr.is_v4() { Err("IPv4 goes with '--arp'".into()) } else { Ok(p) })
}

pub fn v4_prefix(text: &str) -> Result<Prefix, String> {
    prefix(text).and_then(|p| if p.addr.is_v4() { Ok(p) } else { Err("IPv6 goes with '--subnet'".into()) })
}

/// A name as engines take them, which is a part of a path as it stands.
fn network(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let named = text.len() <= 128 && text.bytes().all(fits) && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if named { Ok(text.into()) } else { Err("a network's name has letters, digits, '_', '-' and '.'".into()) }
}

/// From a millisecond to a day.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let advice = || "give a number of seconds, from 0.001 to 86400".to_string();
    let value: f64 = text.parse().map_err(|_| advice())?;
    if (0.001..=86_400.0).contains(&value) { Ok(Duration::from_secs_f64(value)) } else { Err(advice()) }
}

fn mac(text: &str) -> Result<Mac, String> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|b| if b.len() <= 2 { u8::from_str_radix(b, 16).ok() } else { None })
        .collect::<Option<_>>()
        .ok_or("give six bytes, as in 02:00:00:00:00:01")?;
    let mac = Mac(bytes.try_into().map_err(|_| "give six bytes, as in 02:00:00:00:00:01")?);
    if mac.is_unicast() { Ok(mac) } else { Err("no single station has this MAC".into()) }
}

const RESPOND_EXAMPLES: &str = "\
Answers come from the target's own address. This host must forward, and have a
route to the containers. Needs CAP_NET_RAW at the start; ends by SIGTERM or
'spelt ctl quit'.

Examples:
  spelt respond -i eth0 --subnet 2001:db8:1::/64 --via docker0
  spelt respond -i eth0 --subnet 2001:db8:1::/64 --exclude 2001:db8:1::/112
  spelt respond -i eth0 --subnet 2001:db8:1::/64 --arp 192.0.2.16/28 --auto
  spelt respond -i eth0 --docker-network web
  spelt respond -c /etc/ndppd.conf";

const ANNOUNCE_EXAMPLES: &str = "\
Nothing is printed if all went well. Exit status: 0; 1 if something could not be
sent; 2 for a wrong command line. Needs CAP_NET_RAW.

Examples:
  spelt announce -i eth0 192.0.2.10 2001:db8::10
  spelt announce -i eth0 --count 5 --interval 0.2 --reply 192.0.2.10
  ip netns exec blue spelt announce -i eth0 10.88.0.7";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_lines_are_consistent() {
        Announce::command().debug_assert();
        Respond::command().debug_assert();
    }

    #[test]
    fn prefixes_have_no_bits_beyond_their_length() {
        assert_eq!(prefix("2001:db8::/64").unwrap().len, 64);
        assert_eq!(prefix("2001:db8::1").unwrap().len, 128);
        assert_eq!(prefix("192.0.2.0/24").unwrap().len, 24);
        assert_eq!(prefix("::/0").unwrap().len, 0);
        for wrong in
            ["", "2001:db8::1/64", "2001:db8::/129", "192.0.2.0/33", "ff02::/16", "fe80::/64", "127.0.0.0/8", "x/1"]
        {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
        assert!(v6_prefix("192.0.2.0/24").is_err() && v4_prefix("2001:db8::/64").is_err());
    }

    #[test]
    fn addresses_and_macs_are_stations() {
        for wrong in ["ff02::1", "127.0.0.1", "::", "255.255.255.255", "host"] {
            assert!(unicast(wrong).is_err(), "{wrong}");
        }
        assert_eq!(mac("2:0:0:0:0:ff"), Ok(Mac([2, 0, 0, 0, 0, 0xff])));
        for wrong in
            ["01:00:00:00:00:00", "00:00:00:00:00:00", "2:0:0:0:0", "2:0:0:0:0:0:0", "x:0:0:0:0:0", "002:0:0:0:0:0"]
        {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "NaN", "inf", "86401", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
