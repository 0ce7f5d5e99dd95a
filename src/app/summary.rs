//! The start-up banner: what was decided, for the user.

use super::plan::Plan;
use crate::base::{Family, PerFamily};
use crate::config::{Config, Mode, Personality};
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
    let in_namespace = !matches!(config.mode, Mode::Machine { .. });
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
        // Known once it is made.
        socket: None,
        vhost_user: config.vhost_user,
        template: PerFamily::new(template(Family::V4), template(Family::V6)),
        outbound_if: config.outbound_if.clone(),
        outbound_addr: config.outbound_addr,
        ns_ifname: in_namespace.then(|| plan.interface.name.clone()),
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

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;
    use crate::config::{self, Command};
    use crate::host::{self, Dump, Select};

    /// On a host without any network.
    fn lines(argv0: &str, arguments: &str) -> Vec<String> {
        let arguments = arguments.split_whitespace().map(Into::into).collect();
        let (Command::Run(config) | Command::Attach(config)) = config::from_args(argv0.as_ref(), arguments).unwrap()
        else {
            panic!("no configuration")
        };
        let network = host::choose(&Dump::default(), &Select::default()).unwrap();
        summary(&config, &network, &plan(&config, &network, 0), Rules::default()).lines()
    }

    #[test]
    fn pasta_has_headings_even_without_rules() {
        let pasta = lines("pasta", "1");
        assert_eq!(
            pasta[pasta.len() - 2..],
            ["Inbound forwarding rules (HOST):", "Outbound forwarding rules (SPLICE):"]
        );
        assert!(!lines("spelt", "attach 1").iter().any(|l| l.contains("forwarding rules")));
    }

    #[test]
    fn local_mode_has_no_template() {
        let text = lines("pasta", "1").join("\n");
        assert!(text.starts_with("Namespace interface: tap0\nMAC:\n"), "{text}");
        for part in ["    assign: 169.254.2.1\n    mask: 255.255.0.0\n    router: 169.254.2.2", "    assign: ::\n"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn without_an_interface_there_is_nothing_to_tell_about_it() {
        let expected = "MAC:\n    host: 9a:55:9a:55:9a:55\nInbound forwarding rules (HOST):\n\
            Outbound forwarding rules (SPLICE):";
        assert_eq!(lines("pasta", "--splice-only 1").join("\n"), expected);
    }
}
