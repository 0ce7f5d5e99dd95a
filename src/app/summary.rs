//! The start-up banner: what was decided, for the user.

use super::plan::Plan;
use crate::base::{Family, PerFamily};
use crate::config::Config;
use crate::fwd::Rule;
use crate::host::Network;
use crate::logging::{Assigned, Summary};

pub fn summary(config: &Config, network: &Network, plan: &Plan, inbound: Vec<Rule>) -> Summary {
    let g = &plan.gateway;
    let template = |f: Family| Some(network.families[f].as_ref()?.interface.as_ref()?.name.clone());
    let dns = |f: Family| {
        let told = g.dns.iter().filter(|a| a.family() == f && g.dns_in_dhcp);
        told.copied().collect::<Vec<_>>()
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
        search: if g.search_in_dhcp { g.search.clone() } else { Vec::new() },
        inbound,
        outbound: Vec::new(),
    }
}
