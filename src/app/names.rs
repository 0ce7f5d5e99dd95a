//! How the guest resolves names: which servers it is told, and which of its queries mean a server of the host's own.
//! Pure.

use std::fmt::Write;

use crate::base::{Addr, Family, PerFamily};
use crate::config::{Config, Dns, Search};
use crate::host::Resolv;

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
}

impl Names {
    /// `stand_in`: an address of the gateway's, per family, that may stand for a resolver the guest cannot reach itself;
    /// `ifname`: the guest's interface, for link-local ones.
    pub fn new(config: &Config, host: &Resolv, stand_in: &PerFamily<Option<Addr>>, ifname: &str) -> Names {
        let mut names = Names { search: search(config, host), ..Names::default() };
        if config.dns == Dns::None {
            names.resolv_conf = Some(names.file(ifname));
            return names;
        }
        let all: Vec<Addr> = host.nameservers.v4.iter().chain(&host.nameservers.v6).copied().collect();
        let on_loopback = all.iter().any(Addr::is_loopback);
        for f in [Family::V4, Family::V6] {
            let on = if f == Family::V4 { config.v4 } else { config.v6 };
            if !on {
                continue;
            }
            names.host[f] = config.dns_host[f].or(host.first(f)).or(all.first().copied());
            let mapped = stand_in[f].filter(|a| host.nameservers[f].contains(a));
            names.forward[f] = config.dns_forward[f]
                // A resolver that shares its address with the host's loopback: the port tells which is meant.
                .or(mapped.inspect(|a| names.host[f] = config.dns_host[f].or(Some(*a))))
                .or(stand_in[f].filter(|_| on_loopback));
            names.forward[f] = names.forward[f].filter(|_| names.host[f].is_some());
        }
        names.servers = servers(config, &all, &names.forward);
        let explicit = config.dns != Dns::FromHost || config.search != Search::FromHost;
        if explicit || on_loopback {
            names.resolv_conf = Some(names.file(ifname));
        }
        names
    }

    fn file(&self, ifname: &str) -> String {
        let mut text = String::from("# made by spelt for this network namespace\n");
        for server in &self.servers {
            let zone =
                if server.to_v6().is_some() && server.is_link_local() { format!("%{ifname}") } else { String::new() };
            let _ = writeln!(text, "nameserver {server}{zone}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        text
    }
}

fn search(config: &Config, host: &Resolv) -> Vec<String> {
    match &config.search {
        Search::FromHost => host.search.clone(),
        Search::None => Vec::new(),
        Search::Domains(d) => d.clone(),
    }
}

/// In the host's order; a resolver on the host's loopback is reached through a forward address, of its own family first.
fn servers(config: &Config, all: &[Addr], forward: &PerFamily<Option<Addr>>) -> Vec<Addr> {
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
                if !server.is_loopback() {
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
