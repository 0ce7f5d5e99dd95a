//! What a change of the host's network is called in the log.

use crate::app::plan::Plan;
use crate::base::{Addr, Family, Prefix, Route};
use crate::ns::Interface;

/// What the guest will see of the change; a sentence each.
pub(super) fn differences(old: &Plan, new: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for (f, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let (before, now) = (shown(old, f), shown(new, f));
        if before != now {
            lines.push(format!("the host's {name} network has changed: the guest has {now} now, not {before}"));
        } else if copied(old, f) != copied(new, f) {
            lines.push(format!("the host's {name} addresses or routes have changed: the guest still has {now}"));
        }
    }
    if old.gateway.dns != new.gateway.dns
        || old.nat.dns_host != new.nat.dns_host
        || old.gateway.search != new.gateway.search
    {
        let list: Vec<String> = new.gateway.dns.iter().map(Addr::to_string).collect();
        let servers = if list.is_empty() { "none".into() } else { list.join(", ") };
        lines.push(format!("the host resolves names differently: the guest's name servers are {servers} now"));
    }
    lines
}

/// Address and gateway.
fn shown(plan: &Plan, f: Family) -> String {
    let address = plan.gateway.assigned[f].map_or("no address".into(), |(addr, len)| format!("{addr}/{len}"));
    let gateway = plan.nat.gateway[f].or(plan.nat.our_link_local.filter(|_| f == Family::V6));
    gateway.map_or(address.clone(), |gateway| format!("{address} by {gateway}"))
}

/// What an interface has that we configure.
fn copied(plan: &Plan, f: Family) -> (Vec<&Prefix>, Vec<&Route>) {
    let Interface { addrs, routes, .. } = &plan.interface;
    (addrs.iter().filter(|p| p.addr.family() == f).collect(), routes.iter().filter(|r| r.family() == f).collect())
}
