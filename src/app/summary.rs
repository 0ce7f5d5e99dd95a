//! The start-up banner: what was decided, for the user.

use super::plan::Plan;
use crate::base::{Family, PerFamily};
use crate::config::{Config, Personality};
use crate::fwd::Rule;
use crate::host::Network;
use crate::logging::{Assigned, Summary};

/// The forwarding rules of both directions.
#[derive(Debug, Default)]
pub struct Rules {
    pub inbound: Vec<Rule>,
    pub outbound: Vec<Rule>,
}

pub fn summary(config: &Config, network: &Network, plan: &Plan, rules: Rules) -> Summary {
    let g = &plan.gateway;
    // pasta has a heading even for no rules.
    let shown = |rules: Vec<Rule>| Some(rules).filter(|r| !r.is_empty() || config.personality == Personality::Pasta);
    let (inbound, outbound) = (shown(rules.inbound), shown(rules.outbound));
    if config.splice_only {
        return Summary { our_mac: Some(config.our_mac), inbound, outbound, ..Summary::default() };
    }
    let template = |f: Family| Some(network.families[f].as_ref()?.interface.as_ref()?.name.clone());
    let dns = |f: Family| {
        // Whether DHCP tells them or only a resolv.conf does.
        g.dns.iter().copied().filter(|a| a.family() == f).collect::<Vec<_>>()
    };
    let dhcp = g.assigned.v4.filter(|_| g.dhcp && g.gateway.v4.is_some()).map(|(addr, prefix)| Assigned {
        addr: Some(addr),
        prefix,
        router: g.gateway.v4,
        our_link_local: None,
    });
    let ipv6 = g.v6.then_some(Assigned {
        addr: plan.nat.assigned.v6,
        prefix: 0,
        router: g.gateway.v6,
        our_link_local: g.our_link_local,
    });
    Summary {
        template: PerFamily::new(template(Family::V4), template(Family::V6)),
        outbound_if: config.outbound_if.clone(),
        outbound_addr: config.outbound_addr,
        ns_ifname: Some(plan.interface.name.clone()),
        our_mac: Some(config.our_mac),
        host_loopback: plan.nat.map_host_loopback,
        dhcp,
        ipv6,
        ndp: g.ndp,
        dhcpv6: g.dhcpv6,
        dns: PerFamily::new(dns(Family::V4), dns(Family::V6)),
        search: g.search.clone(),
        inbound,
        outbound,
    }
}
