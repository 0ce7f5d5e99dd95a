//! How the guest resolves names: which servers it is told, and which of its queries mean a server of the host's own.
//! Pure.

use std::fmt::Write;

use crate::base::{Addr, Family, PerFamily};
use crate::config::{Config, Dns, Search};
use crate::host::Resolv;

/// What the guest's network looks like, as far as it matters for names.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// Families it has.
    pub has: PerFamily<bool>,
    /// Its own addresses: what is sent to them stays inside.
    pub addrs: &'a [Addr],
    /// An address, per family, that may stand for a resolver it cannot reach itself.
    pub stand_in: PerFamily<Option<Addr>>,
    /// Its interface.
    pub interface: &'a str,
}

impl Guest<'_> {
    /// True if the host reaches this server, and the guest at the same address does not.
    fn is_cut_off_from(&self, server: &Addr) -> bool {
        server.is_loopback() || self.addrs.contains(server) || !self.has[server.family()]
    }
}

/// The decisions about name resolution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Servers as told to the guest.
    pub servers: Vec<Addr>,
    pub search: Vec<String>,
    /// Queries of the guest to these addresses ...
    pub forward: PerFamily<Option<Addr>>,
    /// ... go to these, of either family.
    pub host: PerFamily<Option<Addr>>,
    /// Contents of a resolv.conf of the guest's own, where the host's would not do inside.
    pub resolv_conf: Option<String>,
    /// The same in any case.
    pub text: String,
}

impl Names {
    pub fn new(config: &Config, host: &Resolv, guest: &Guest<'_>) -> Names {
        let mut names = Names { search: search(config, host), ..Names::default() };
        if config.dns == Dns::None {
            names.text = names.file(host, guest);
            names.resolv_conf = Some(names.text.clone());
            return names;
        }
        let all: Vec<Addr> = host.nameservers.v4.iter().chain(&host.nameservers.v6).copied().collect();
        // The address that leads to the host's loopback leads to no other server, where another address is to do that.
        let is_loopbacks =
            |a: &Addr| config.dns_forward[a.family()].is_some() && guest.stand_in[a.family()] == Some(*a);
        let is_cut_off = |a: &Addr| guest.is_cut_off_from(a) || is_loopbacks(a);
        let cut_off: Vec<Addr> = all.iter().copied().filter(is_cut_off).collect();
        for f in [Family::V4, Family::V6].into_iter().filter(|f| guest.has[*f]) {
            // A resolver that shares its address with the host's loopback: the port tells which is meant.
            let shared = guest.stand_in[f].filter(|a| all.contains(a));
            let automatic = shared.or(guest.stand_in[f].filter(|_| !cut_off.is_empty()));
            names.host[f] = config.dns_host[f].or(match config.dns_forward[f] {
                Some(_) => resolver_for(f, config, &all),
                None => shared.or(of_family(f, &cut_off)),
            });
            names.forward[f] = config.dns_forward[f].or(automatic).filter(|_| names.host[f].is_some());
        }
        names.servers = servers(config, &all, &cut_off, &names.forward);
        let explicit = config.dns != Dns::FromHost || config.search != Search::FromHost;
        // A link-local server's zone is the name of an interface, which may be another one inside.
        let as_it_is = cut_off.is_empty() && !all.iter().any(|a| !a.is_v4() && a.is_link_local());
        names.text = names.file(host, guest);
        if explicit || !as_it_is && !host.is_missing {
            names.resolv_conf = Some(names.text.clone());
        }
        names
    }

    fn file(&self, host: &Resolv, guest: &Guest<'_>) -> String {
        let mut text = String::from("# made by spelt for this network namespace\n");
        for server in &self.servers {
            let zoned = !server.is_v4() && server.is_link_local();
            let zone = if zoned { format!("%{}", guest.interface) } else { String::new() };
            let _ = writeln!(text, "nameserver {server}{zone}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        for options in &host.options {
            let _ = writeln!(text, "options {options}");
        }
        text
    }
}

/// Where a forward address leads for which no server of its own IP version is given. A server given for the other version
/// is meant if nothing else leads to it; else the host's own server of this version comes first.
fn resolver_for(f: Family, config: &Config, all: &[Addr]) -> Option<Addr> {
    let other = if f == Family::V4 { Family::V6 } else { Family::V4 };
    let given = config.dns_host[other];
    if config.dns_forward[other].is_none() && given.is_some() {
        return given;
    }
    all.iter().find(|a| a.family() == f).copied().or(given).or(all.first().copied())
}

/// The first of this family, else the first.
fn of_family(f: Family, list: &[Addr]) -> Option<Addr> {
    list.iter().find(|a| a.family() == f).or(list.first()).copied()
}

fn search(config: &Config, host: &Resolv) -> Vec<String> {
    match &config.search {
        Search::FromHost => host.search.clone(),
        Search::None => Vec::new(),
        Search::Domains(d) => d.clone(),
    }
}

/// In the host's order; a resolver that is cut off is reached through a forward address, of its own family first.
fn servers(config: &Config, all: &[Addr], cut_off: &[Addr], forward: &PerFamily<Option<Addr>>) -> Vec<Addr> {
    let mut out = Vec::new();
    let mut add = |a: Addr| {
        if !out.contains(&a) {
            out.push(a);
        }
    };
    match &config.dns {
        Dns::None => {}
        Dns::Servers(list) => list.iter().copied().for_each(&mut add),
        Dns::FromHost => {
            for server in all {
                let f = server.family();
                if !cut_off.contains(server) {
                    add(*server);
                } else if let Some(a) = forward[f].or(forward.v4).or(forward.v6) {
                    add(a);
                }
            }
            // An address the user made for it is told even if the host names no resolver of that family.
            config.dns_forward.v4.into_iter().chain(config.dns_forward.v6).for_each(&mut add);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Command};

    /// Told servers, and where each forward address leads, for a guest 192.0.2.2 and 2001:db8::2 with gateways that end
    /// in 1.
    fn told(options: &str, resolv_conf: &str) -> (String, String, Option<String>) {
        let args = ["run"].into_iter().chain(options.split_whitespace()).map(Into::into).collect();
        let Ok(Command::Run(config)) = config::from_args("spelt".as_ref(), args) else { panic!("{options}") };
        let has = PerFamily::new(config.v4, config.v6);
        let stand_in = PerFamily::new(Some(a("192.0.2.1")), Some(a("fe80::1")));
        let addrs = [a("192.0.2.2"), a("2001:db8::2")];
        let guest = Guest { has, addrs: &addrs, stand_in, interface: "tap7" };
        let names = Names::new(&config, &Resolv::parse(resolv_conf.as_bytes()), &guest);
        let text = |list: &[Addr]| list.iter().map(Addr::to_string).collect::<Vec<_>>().join(" ");
        let leads = [Family::V4, Family::V6].into_iter().filter_map(|f| Some((names.forward[f]?, names.host[f]?)));
        let leads: Vec<_> = leads.map(|(from, to)| format!("{from}>{to}")).collect();
        (text(&names.servers), leads.join(" "), names.resolv_conf)
    }

    fn a(text: &str) -> Addr {
        text.parse::<std::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn servers_that_the_guest_reaches_are_told_as_they_are() {
        let (servers, leads, file) = told("", "nameserver 192.0.2.53\nnameserver 2001:db8::53\n");
        assert_eq!((servers.as_str(), leads.as_str(), file), ("192.0.2.53 2001:db8::53", "", None));
    }

    #[test]
    fn servers_that_are_cut_off_get_a_forward_address() {
        for (options, server, expected, leads) in [
            ("", "127.0.0.53", "192.0.2.1", "192.0.2.1>127.0.0.53 fe80::1>127.0.0.53"),
            ("-4", "::1", "192.0.2.1", "192.0.2.1>::1"),
            // The host's address is the guest's own.
            ("", "2001:db8::2", "fe80::1", "192.0.2.1>2001:db8::2 fe80::1>2001:db8::2"),
            // A family that the guest has not.
            ("-6", "192.0.2.53", "fe80::1", "fe80::1>192.0.2.53"),
        ] {
            let (told, led, file) = told(options, &format!("nameserver {server}\n"));
            assert_eq!((told.as_str(), led.as_str()), (expected, leads), "{options} {server}");
            assert!(file.unwrap().contains(&format!("nameserver {expected}")));
        }
    }

    #[test]
    fn a_server_given_for_the_other_ip_version_is_meant() {
        let resolvers = "nameserver 192.0.2.53\nnameserver 2001:db8::53\n";
        let both = "--dns-forward 169.254.1.1 --dns-forward fd00::1";
        for (options, resolv_conf, expected) in [
            ("--dns-forward 169.254.1.1 --dns-host fd00::9", resolvers, "169.254.1.1>fd00::9"),
            ("--dns-forward fd00::1 --dns-host 127.0.0.9", "", "fd00::1>127.0.0.9"),
            (&format!("{both} --dns-host 127.0.0.9"), resolvers, "169.254.1.1>127.0.0.9 fd00::1>2001:db8::53"),
            (
                &format!("{both} --dns-host 127.0.0.9"),
                "nameserver 192.0.2.53\n",
                "169.254.1.1>127.0.0.9 fd00::1>127.0.0.9",
            ),
            (both, "nameserver 192.0.2.53\n", "169.254.1.1>192.0.2.53 fd00::1>192.0.2.53"),
        ] {
            assert_eq!(told(options, resolv_conf).1, expected, "{options}");
        }
    }

    #[test]
    fn the_one_that_is_cut_off_is_led_to_even_behind_another() {
        let (servers, leads, _) = told("-4", "nameserver 192.0.2.53\nnameserver 127.0.0.1\n");
        assert_eq!((servers.as_str(), leads.as_str()), ("192.0.2.53 192.0.2.1", "192.0.2.1>127.0.0.1"));
    }

    #[test]
    fn a_forward_address_takes_the_place_of_one_that_leads_to_the_loopback() {
        let (servers, leads, file) = told("-4 --dns-forward 169.254.1.1", "nameserver 192.0.2.1\n");
        assert_eq!((servers.as_str(), leads.as_str()), ("169.254.1.1", "169.254.1.1>192.0.2.1"));
        assert!(file.unwrap().contains("nameserver 169.254.1.1"));
    }

    #[test]
    fn a_gateway_that_is_a_resolver_too_stays_one() {
        let (servers, leads, file) = told("-4", "nameserver 192.0.2.1\n");
        assert_eq!((servers.as_str(), leads.as_str(), file), ("192.0.2.1", "192.0.2.1>192.0.2.1", None));
    }

    #[test]
    fn a_file_of_its_own_has_zone_search_list_and_options() {
        let (_, _, file) = told("", "nameserver fe80::53%eth0\nsearch lab.test\noptions ndots:3 edns0\n");
        let lines = "nameserver fe80::53%tap7\nsearch lab.test\noptions ndots:3 edns0\n";
        assert!(file.as_ref().unwrap().ends_with(lines), "{file:?}");
        let (servers, _, file) = told("-D 203.0.113.9 -S none", "nameserver 127.0.0.1\nsearch lab.test\n");
        assert_eq!(servers, "203.0.113.9");
        assert!(file.as_ref().unwrap().ends_with("nameserver 203.0.113.9\n"), "{file:?}");
        let (servers, leads, file) = told("-D none", "nameserver 127.0.0.1\n");
        assert_eq!((servers.as_str(), leads.as_str()), ("", ""));
        assert_eq!(file.unwrap().lines().count(), 1);
    }
}
