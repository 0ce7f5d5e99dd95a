//! What comes over netlink. The kernel is to be trusted, our reading of what later kernels say is not.

use spelt::base::Family;
use spelt::fwd::ports::PortSet;
use spelt::host::{self, Dump, Select};
use spelt::sys::netlink::messages;

const HEADER: usize = 16;
const DONE: u16 = 3;
const TCP_LISTEN: u8 = 10;

/// Datagrams of any bytes, behind a byte that chooses among their readers.
pub fn netlink(data: &[u8]) {
    let [reader, datagram @ ..] = data else { return };
    match reader % 3 {
        0 => facts(datagram),
        1 => {
            for (addr, mac) in host::neighbours_in(datagram) {
                assert!(addr.is_unicast() && !addr.is_loopback() && mac.is_none_or(|m| m.is_unicast()));
            }
        }
        _ => sockets(datagram),
    }
    let ends = walk(datagram).filter(|m| kind(m) == DONE).count();
    let found = messages(datagram);
    let told = found.iter().filter(|m| matches!(m.payload, netlink_packet_core::NetlinkPayload::Done(_))).count();
    assert_eq!(told, ends, "each end of a list is seen, or its reader would wait for ever");
}

/// Interfaces, addresses and routes, and what is made of them.
fn facts(datagram: &[u8]) {
    let mut dump = Dump::default();
    dump.take(datagram);
    for prefix in dump.addresses.iter().map(|a| a.prefix).chain(dump.routes.iter().map(|r| r.route.dst)) {
        assert!(prefix.len <= if prefix.addr.is_v4() { 32 } else { 128 });
    }
    assert!(dump.routes.iter().all(|r| !r.route.hops.is_empty()));
    let Ok(network) = host::choose(&dump, &Select::default()) else { panic!("no interface was named") };
    for family in [Family::V4, Family::V6] {
        let template = network.families[family].as_ref().expect("it is on");
        assert!(template.addr.is_none_or(|a| a.addr.family() == family));
        assert!(template.gateway.is_none_or(|g| g.family() == family));
        assert!(template.routes.len() <= host::ROUTES_MAX);
        if let Some(interface) = &template.interface {
            assert!(dump.links.iter().any(|l| l.index == interface.index && l.name == interface.name));
        }
    }
}

/// Ports in use: no more than the datagram has room for.
fn sockets(datagram: &[u8]) {
    let mut ports = PortSet::default();
    let _ = host::ports_in(datagram, 0, TCP_LISTEN, &mut ports);
    assert!(ports.within(0, u16::MAX).count() <= datagram.len() / HEADER);
}

fn kind(message: &[u8]) -> u16 {
    u16::from_ne_bytes([message[4], message[5]])
}

/// The messages of a datagram by their lengths alone.
fn walk(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*datagram.first_chunk::<4>()?) as usize;
        let one = datagram.get(..len).filter(|m| m.len() >= HEADER)?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(one)
    })
}
