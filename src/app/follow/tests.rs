use super::*;
use crate::base::Route;
use crate::config::{self, Command};
use crate::host::{Address, Dump, Link, Select, TableRoute};

fn addr(s: &str) -> Addr {
    s.parse::<std::net::IpAddr>().unwrap().into()
}

/// Of a host with these addresses and gateways.
fn network(all: &[(&str, u8, &str)]) -> Network {
    let mut dump = Dump::default();
    dump.links.push(Link { index: 2, name: "eth0".into(), mtu: 1500, loopback: false });
    for (address, len, gateway) in all {
        let prefix = Prefix::new(addr(address), *len);
        dump.addresses.push(Address { index: 2, prefix, global: true, deprecated: false, temporary: false });
        let route = Route::default_via(addr(gateway));
        dump.routes.push(TableRoute { index: 2, route, preferred_source: None });
    }
    Network {
        resolv: host::Resolv::parse(b"nameserver 203.0.113.53\n"),
        ..host::choose(&dump, &Select::default()).unwrap()
    }
}

const HOME: (&str, u8, &str) = ("192.0.2.7", 24, "192.0.2.1");
const HOME6: (&str, u8, &str) = ("2001:db8::7", 64, "fe80::1:1");
const OFFICE: (&str, u8, &str) = ("198.51.100.7", 24, "198.51.100.1");

fn planned(network: &Network) -> Plan {
    let Ok(Command::Run(config)) = config::from_args("spelt".as_ref(), vec!["run".into()]) else {
        panic!("no command")
    };
    plan(&config, network, 1)
}

#[test]
fn no_network_is_no_better_than_the_one_before() {
    let (home, none) = (network(&[HOME, HOME6]), network(&[]));
    assert_eq!(planned(&better_of(&home, none.clone())), planned(&home));
    assert_eq!(planned(&better_of(&none, none.clone())), planned(&none));
    assert_eq!(planned(&better_of(&none, home.clone())), planned(&home));
    // One version alone is a network.
    assert_eq!(planned(&better_of(&home, network(&[HOME]))), planned(&network(&[HOME])));
}

#[test]
fn names_are_followed_without_a_network_too() {
    let none = Network { resolv: host::Resolv::parse(b"nameserver 203.0.113.54\n"), ..network(&[]) };
    assert_eq!(better_of(&network(&[HOME]), none.clone()).resolv, none.resolv);
}

#[test]
fn what_has_changed_is_said() {
    let (home, office) = (planned(&network(&[HOME, HOME6])), planned(&network(&[OFFICE, HOME6])));
    let moved = "the host's IPv4 network has changed: the guest has 198.51.100.7/24 by 198.51.100.1 now, not 192.0.2.7/24 by 192.0.2.1";
    assert_eq!(words::differences(&home, &office), [moved]);
    assert_eq!(words::differences(&home, &home), Vec::<String>::new());
    let alone = words::differences(&home, &planned(&network(&[HOME])));
    let gone =
        "the host's IPv6 network has changed: the guest has no address by fe80::1 now, not 2001:db8::7/64 by fe80::1:1";
    assert_eq!(alone, [gone]);
}

#[test]
fn name_servers_of_now_are_not_led_elsewhere() {
    let office = network(&[OFFICE]);
    let there = Network { resolv: host::Resolv::parse(b"nameserver 192.0.2.1\n"), ..office.clone() };
    let gateway = PerFamily::new(Some(addr("192.0.2.1")), None);
    let home = vec![Former { map_host_loopback: gateway, dns_forward: gateway, ..Former::default() }];
    let kept = as_of(home.clone(), &planned(&office)).remove(0);
    assert_eq!((kept.map_host_loopback, kept.dns_forward), (gateway, gateway));
    assert_eq!(kept.dns_host.v4, Some(addr("203.0.113.53")));
    let gone = as_of(home, &planned(&there)).remove(0);
    assert_eq!((gone.map_host_loopback, gone.dns_forward), (PerFamily::default(), PerFamily::default()));
}

#[test]
fn a_station_of_the_link_of_now_is_meant_itself() {
    let gateway = PerFamily::new(Some(addr("192.0.2.1")), Some(addr("2001:db8::1")));
    let before = vec![Former { map_host_loopback: gateway, dns_forward: gateway, ..Former::default() }];
    // Another router of the same prefix: 192.0.2.1 may be anybody now.
    let moved = network(&[("192.0.2.7", 24, "192.0.2.254"), ("2001:db8:1::7", 64, "fe80::2:2")]);
    let kept = as_of(before, &planned(&moved)).remove(0);
    assert_eq!(kept.map_host_loopback, PerFamily::new(None, gateway.v6));
    // The guest has not renewed its lease: it asks there.
    assert_eq!(kept.dns_forward, gateway);
}

#[test]
fn a_network_that_comes_and_goes_is_one() {
    let gateway = PerFamily::new(Some(addr("192.0.2.1")), None);
    let whole = Former { map_host_loopback: gateway, dns_forward: gateway, assigned: gateway, ..Former::default() };
    let part = Former { map_host_loopback: PerFamily::default(), ..whole.clone() };
    assert!(whole.is_within(&whole) && part.is_within(&whole) && !whole.is_within(&part));
    let other = Former { assigned: PerFamily::new(Some(addr("192.0.2.2")), None), ..whole.clone() };
    assert!(!other.is_within(&whole));
}
