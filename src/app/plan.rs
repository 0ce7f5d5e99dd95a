//! From what the user asked and what the host has, to what each part is told. Pure.

use std::ffi::CString;

use super::names::{Guest, Names};
use crate::base::{Addr, Family, Mac, PerFamily, Prefix, Route};
use crate::config::{Config, Map, Personality};
use crate::fwd::{Nat, Outbound};
use crate::guest::{L2, Neighbours};
use crate::host::{self, Network, Template};
use crate::{gateway, ns};

/// Every decision taken before the first system call inside the namespace, and again when the host's network has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub nat: Nat,
    pub outbound: Outbound,
    pub gateway: gateway::Config,
    pub interface: ns::Interface,
    /// The guest's resolv.conf, where the host's cannot serve there.
    pub resolv_conf: Option<String>,
    /// What that says, or would say.
    pub names: String,
    /// IP MTU of the guest link.
    pub mtu: u16,
}

/// Used where no option and no host interface names one.
const IFNAME: &str = "tap0";
/// Where DNS is forwarded from if no address leads to the host's loopback. Link-local (RFC 3927), and used for the same
/// elsewhere.
const DNS_FORWARD_V4: Addr = Addr::v4([169, 254, 1, 1]);
/// The kernel's MTU for a tap.
const KERNEL_MTU: u16 = 1500;

/// `seed`: random; for the gateway's timers.
pub fn plan(config: &Config, network: &Network, seed: u64) -> Plan {
    let mut families = PerFamily::new(family(config, network, Family::V4), family(config, network, Family::V6));
    let assigned = PerFamily::new(families.v4.assigned, families.v6.assigned);
    let gateways = PerFamily::new(families.v4.gateway, families.v6.gateway);
    let our_link_local = match gateways.v6 {
        Some(g) if g.is_link_local() => g,
        _ => network.our_link_local,
    };
    let loopback = |f: Family| match config.map_host_loopback[f] {
        Map::Gateway => gateways[f],
        Map::Off => None,
        Map::To(a) => Some(a),
    };
    let map_host_loopback = PerFamily::new(loopback(Family::V4), loopback(Family::V6));
    let name = config
        .ns_ifname
        .clone()
        .or_else(|| network.interface_name().map(String::from))
        .unwrap_or_else(|| IFNAME.to_string());
    let v6 = network.families.v6.is_some();
    // Behind another translator, as in a container, the address may be that one's, which leads to servers that we do not see.
    let invented = |addr: Addr| (config.personality != Personality::Passt).then_some(addr);
    let own: Vec<Addr> = families.v4.addrs.iter().chain(&families.v6.addrs).map(|p| p.addr).collect();
    let guest = Guest {
        has: PerFamily::new(network.families.v4.is_some(), v6),
        addrs: &own,
        stand_in: PerFamily::new(
            map_host_loopback.v4.or(invented(DNS_FORWARD_V4)),
            map_host_loopback.v6.or(invented(our_link_local)),
        ),
        interface: &name,
    };
    let names = Names::new(config, &network.resolv, &guest);
    // Without a default route the guest would not know that it is on its link.
    if names.servers.contains(&DNS_FORWARD_V4) && !families.v4.routes.iter().any(Route::is_default) {
        families.v4.routes.push(Route::new(Prefix::new(DNS_FORWARD_V4, 32), None));
    }
    let nat = Nat {
        gateway: gateways,
        our_link_local: v6.then_some(our_link_local),
        map_host_loopback,
        map_guest_addr: config.map_guest_addr,
        dns_forward: names.forward,
        dns_host: names.host,
        assigned: PerFamily::new(assigned.v4.map(|p| p.addr), assigned.v6.map(|p| p.addr)),
        shared: if config.config_net { own } else { Vec::new() },
        loopback_clients: config.loopback_clients,
        former: Vec::new(),
    };
    let gateway = gateway_config(config, &nat, &assigned, &names, seed);
    let interface = interface(config, name, v6, families);
    Plan {
        outbound: outbound(config, network),
        gateway,
        interface,
        resolv_conf: names.resolv_conf,
        names: names.text,
        mtu: if config.mtu == 0 { KERNEL_MTU } else { config.mtu },
        nat,
    }
}

fn interface(config: &Config, name: String, v6: bool, mut families: PerFamily<Chosen>) -> ns::Interface {
    // The kernel takes no IPv6 address on a smaller link (RFC 8200 §5); the user has been warned.
    let carries_v6 = config.mtu == 0 || config.mtu >= Config::IPV6_MTU_MIN;
    if !carries_v6 {
        (families.v6.addrs, families.v6.routes) = Default::default();
    }
    ns::Interface {
        name,
        mac: config.ns_mac,
        mtu: (config.mtu != 0).then_some(u32::from(config.mtu)),
        queues: config.queues.unwrap_or(Config::QUEUES_DEFAULT),
        fewer_will_do: config.queues.is_none(),
        queue_frames: ns::Interface::QUEUE_FRAMES,
        loopback_only: config.splice_only,
        configure: config.config_net,
        ipv6: v6 && carries_v6,
        addrs: [families.v4.addrs, families.v6.addrs].concat(),
        routes: [families.v4.routes, families.v6.routes].concat(),
    }
}

impl Plan {
    /// The link's ends before the first frame. The guest's MAC may not be known yet.
    pub fn l2(&self, config: &Config, guest_mac: Option<Mac>, guest_link_local: Option<Addr>) -> L2 {
        L2 {
            our_mac: config.our_mac,
            guest_mac: guest_mac.unwrap_or(Mac::BROADCAST),
            guest_v4: self.nat.assigned.v4,
            guest_v6: self.nat.assigned.v6,
            guest_link_local,
            neighbours: Neighbours::default(),
        }
    }
}

/// One family's decisions.
#[derive(Default)]
struct Chosen {
    assigned: Option<Prefix>,
    gateway: Option<Addr>,
    addrs: Vec<Prefix>,
    routes: Vec<Route>,
}

fn family(config: &Config, network: &Network, f: Family) -> Chosen {
    let Some(template) = &network.families[f] else { return Chosen::default() };
    let wanted = config.addresses[f].map(|a| {
        let netmask = if f == Family::V4 { config.netmask } else { None };
        Prefix::new(a.addr, a.prefix.or(netmask).unwrap_or_else(|| host::default_prefix_len(&a.addr)))
    });
    let masked = |p: Prefix| match config.netmask {
        Some(len) if f == Family::V4 => Prefix::new(p.addr, len),
        _ => p,
    };
    let assigned = wanted.or(template.addr.map(masked));
    let gateway = config.gateway[f].or(template.gateway);
    let addrs = match assigned {
        Some(one) if wanted.is_some() || config.no_copy_addrs || config.netmask.is_some() && f == Family::V4 => {
            vec![one]
        }
        _ => template.addrs.clone(),
    };
    Chosen { assigned, gateway, addrs, routes: routes(config, template, f, gateway) }
}

fn routes(config: &Config, template: &Template, f: Family, gateway: Option<Addr>) -> Vec<Route> {
    let own = config.gateway[f].is_some() || config.no_copy_routes || template.is_local();
    match gateway {
        Some(g) if own => vec![Route::default_via(g)],
        _ if config.addresses[f].is_some() => {
            // Routes made by the kernel for addresses the guest does not get would lead nowhere it knows.
            template.routes.iter().filter(|r| !r.connected).cloned().collect()
        }
        _ => template.routes.clone(),
    }
}

fn gateway_config(
    config: &Config,
    nat: &Nat,
    assigned: &PerFamily<Option<Prefix>>,
    names: &Names,
    seed: u64,
) -> gateway::Config {
    let pair = |p: Option<Prefix>| p.map(|p| (p.addr, p.len));
    gateway::Config {
        our_mac: config.our_mac,
        gateway: nat.gateway,
        our_link_local: nat.our_link_local,
        assigned: PerFamily::new(pair(assigned.v4), pair(assigned.v6)),
        mtu: (config.mtu != 0).then_some(config.mtu),
        dns: names.servers.clone(),
        search: names.search.clone(),
        hostname: config.hostname.clone(),
        fqdn: config.fqdn.clone(),
        arp: true,
        ndp: config.ndp,
        ra: config.ra,
        dhcp: config.dhcp,
        dhcpv6: config.dhcpv6,
        prefix_is_hosts: config.addresses.v6.is_none(),
        leases_end: config.follows(),
        dns_in_dhcp: config.dhcp_dns,
        search_in_dhcp: config.dhcp_search,
        v4: config.v4,
        v6: nat.our_link_local.is_some(),
        seed,
    }
}

fn outbound(config: &Config, network: &Network) -> Outbound {
    let device = |f: Family| config.outbound_if[f].as_ref().and_then(|n| CString::new(n.as_str()).ok());
    let scope = [&network.families.v6, &network.families.v4]
        .into_iter()
        .flatten()
        .find_map(|t| t.interface.as_ref())
        .map_or(0, |i| i.index);
    Outbound { addr: config.outbound_addr, device: PerFamily::new(device(Family::V4), device(Family::V6)), scope }
}
