use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::flow::Id;
use crate::fwd::ports::{PortSet, Ports, Spec};

fn forward(on: Side, proto: Proto, text: &str) -> Forward {
    let spec = match on {
        Side::Host => Spec::parse(proto, text),
        Side::Guest => Spec::parse_outbound(proto, text),
    };
    let rules = Ports::Specs(vec![spec.unwrap()]).rules(&(32768..=60999)).unwrap();
    Forward { rule: rules[0].clone(), on, origin: text.into() }
}

fn roomy() -> Forwards {
    let mut f = Forwards::default();
    f.set_budget(usize::MAX);
    f
}

fn handle(on: Side, proto: Proto, n: u32) -> Handle {
    Handle { proto, on, id: Id { index: n, generation: 0 } }
}

fn bound(tcp: &[u16], udp: &[u16]) -> Bound {
    Bound { tcp: tcp.iter().copied().collect(), udp: udp.iter().copied().collect() }
}

/// Looks once and does everything that is to be done.
fn follow(f: &mut Forwards, namespace: Side, bound: &Bound) -> Vec<Change> {
    let mut changes = Vec::new();
    f.changes(namespace, bound, &mut changes);
    for change in &changes {
        match *change {
            Change::Open(id, port) => {
                let forward = f.get(id).unwrap();
                let socket = handle(forward.on, forward.rule.proto, u32::from(port));
                f.opened(id, port, socket);
            }
            Change::Close(id, port) => assert!(f.closed(id, port).next().is_some()),
        }
    }
    changes
}

#[test]
fn ports_follow_the_other_side() {
    let mut f = roomy();
    let id = f.add(forward(Side::Host, Proto::Tcp, "20-30:120-130,auto"));
    f.add(forward(Side::Host, Proto::Tcp, "200"));
    assert!(f.follows(Side::Guest) && !f.follows(Side::Host));
    assert_eq!(follow(&mut f, Side::Guest, &bound(&[22, 125, 200], &[126])), [Change::Open(id, 25)]);
    assert_eq!(follow(&mut f, Side::Guest, &bound(&[125], &[])), []);
    assert_eq!(follow(&mut f, Side::Host, &bound(&[121], &[])), []);
    assert_eq!(follow(&mut f, Side::Guest, &bound(&[120], &[])), [Change::Close(id, 25), Change::Open(id, 20)]);
    let (taken, sockets) = f.take_out(id).unwrap();
    assert_eq!(
        (taken.forward().origin.as_str(), sockets),
        ("20-30:120-130,auto", vec![handle(Side::Host, Proto::Tcp, 20)])
    );
    assert!(!f.follows(Side::Guest));
    assert_eq!((f.put_back(taken), f.open_ports(id).count()), (id, 0));
    assert!(f.follows(Side::Guest));
}

#[test]
fn opposite_rules_do_not_keep_each_other_alive() {
    let mut f = roomy();
    let inward = f.add(forward(Side::Host, Proto::Tcp, "auto"));
    let outward = f.add(forward(Side::Guest, Proto::Tcp, "auto"));
    let datagrams = f.add(forward(Side::Guest, Proto::Udp, "auto"));
    assert_eq!(follow(&mut f, Side::Guest, &bound(&[80], &[])), [Change::Open(inward, 80)]);
    // The host's 80 is ours now.
    assert_eq!(
        follow(&mut f, Side::Host, &bound(&[80, 22], &[])),
        [Change::Open(outward, 22), Change::Open(datagrams, 22)]
    );
    assert_eq!(follow(&mut f, Side::Guest, &bound(&[80, 22], &[22])), []);
    assert_eq!(follow(&mut f, Side::Guest, &bound(&[22], &[22])), [Change::Close(inward, 80)]);
}

#[test]
fn datagrams_follow_streams_too() {
    let mut f = roomy();
    let id = f.add(forward(Side::Host, Proto::Udp, "53,auto"));
    assert_eq!(follow(&mut f, Side::Guest, &bound(&[53], &[])), [Change::Open(id, 53)]);
    assert_eq!(follow(&mut f, Side::Guest, &bound(&[], &[53])), []);
    assert_eq!(follow(&mut f, Side::Guest, &bound(&[], &[])), [Change::Close(id, 53)]);
}

#[test]
fn sockets_are_limited_for_lenient_rules() {
    let mut f = Forwards::default();
    f.set_budget(2);
    let exact = f.add(forward(Side::Host, Proto::Tcp, "9000"));
    f.opened(exact, 9000, handle(Side::Host, Proto::Tcp, 0));
    let id = f.add(forward(Side::Host, Proto::Tcp, "auto"));
    let first = follow(&mut f, Side::Guest, &bound(&[1, 2, 3], &[]));
    assert_eq!(first, [Change::Open(id, 1), Change::Open(id, 2)]);
    assert_eq!(f.room(), 0);
    assert_eq!(f.changes(Side::Guest, &bound(&[1, 2, 3], &[]), &mut Vec::new()), Rest::NoRoom);
    assert_eq!(f.changes(Side::Guest, &bound(&[1, 2], &[]), &mut Vec::new()), Rest::Nothing);
    let second = follow(&mut f, Side::Guest, &bound(&[2, 3], &[]));
    assert_eq!(second, [Change::Close(id, 1), Change::Open(id, 3)]);
    f.take_out(id);
    assert_eq!(f.room(), 2);
}

#[test]
fn many_ports_at_once_are_opened_by_several_scans() {
    let mut f = roomy();
    f.add(forward(Side::Host, Proto::Tcp, "auto"));
    let bound = bound(&(1..=OPENS_MAX as u16 + 1).collect::<Vec<_>>(), &[]);
    let mut changes = Vec::new();
    assert_eq!(f.changes(Side::Guest, &bound, &mut changes), Rest::Next);
    assert_eq!(changes.len(), OPENS_MAX);
    assert_eq!(follow(&mut f, Side::Guest, &bound).len(), OPENS_MAX);
    assert_eq!(follow(&mut f, Side::Guest, &bound).len(), 1);
}

#[test]
fn refused_ports_are_tried_again_in_turn() {
    let mut f = roomy();
    let id = f.add(forward(Side::Host, Proto::Tcp, "auto"));
    let used: Vec<u16> = (1..=100).collect();
    let mut tried = BTreeSet::new();
    for look in 0..3 {
        let mut changes = Vec::new();
        f.changes(Side::Guest, &bound(&used, &[]), &mut changes);
        assert!(look == 0 || changes.len() <= RETRIES_MAX);
        for c in changes {
            let Change::Open(_, port) = c else { panic!("{c:?}") };
            assert_eq!(f.refused(id, port, Errno::EADDRINUSE), look > 0);
            if look > 0 {
                tried.insert(port);
            }
        }
    }
    assert_eq!(tried.len(), 100);
    // Those that nobody wants any more are not told of.
    f.changes(Side::Guest, &bound(&[7], &[]), &mut Vec::new());
    assert!((1..=100).all(|port| f.refused(id, port, Errno::EADDRINUSE) == (port == 7)));
}

#[test]
fn rules_of_one_side_conflict() {
    let mut f = roomy();
    f.add(forward(Side::Host, Proto::Tcp, "20-30"));
    assert!(f.conflict(Side::Host, &forward(Side::Host, Proto::Tcp, "127.0.0.1/30").rule).is_some());
    assert!(f.conflict(Side::Host, &forward(Side::Host, Proto::Udp, "30").rule).is_none());
    assert!(f.conflict(Side::Guest, &forward(Side::Guest, Proto::Tcp, "30").rule).is_none());
}

proptest! {
    /// Against the plain statement: a port is open if its target is in use there, and not by us.
    #[test]
    fn open_is_what_is_in_use(
        looks in proptest::collection::vec(
            (any::<bool>(), proptest::collection::btree_set(1u16..40, 0..8), proptest::collection::btree_set(1u16..40, 0..8)),
            1..12,
        ),
    ) {
        let mut f = roomy();
        let texts = [(Side::Host, Proto::Tcp), (Side::Host, Proto::Udp), (Side::Guest, Proto::Tcp), (Side::Guest, Proto::Udp)];
        let ids = texts.map(|(on, proto)| (on, proto, f.add(forward(on, proto, "1-30:6-35,auto"))));
        let open = |f: &Forwards, on, proto| -> BTreeSet<u16> {
            ids.iter().filter(|(o, p, _)| (*o, *p) == (on, proto)).flat_map(|(_, _, id)| f.open_ports(*id)).collect()
        };
        for (guest, tcp, udp) in looks {
            let namespace = if guest { Side::Guest } else { Side::Host };
            let own_tcp = open(&f, namespace, Proto::Tcp);
            let own_udp = open(&f, namespace, Proto::Udp);
            let others = [namespace.other()].map(|s| (open(&f, s.other(), Proto::Tcp), open(&f, s.other(), Proto::Udp)));
            let set = |s: &BTreeSet<u16>| s.iter().copied().collect::<PortSet>();
            follow(&mut f, namespace, &Bound { tcp: set(&tcp), udp: set(&udp) });
            let expected_tcp: BTreeSet<u16> = tcp.difference(&own_tcp).copied().collect();
            let expected_udp: BTreeSet<u16> = udp.difference(&own_udp).chain(&expected_tcp).copied().collect();
            let lead = |s: BTreeSet<u16>| s.into_iter().filter(|t| (6..=35).contains(t)).map(|t| t - 5).collect::<BTreeSet<_>>();
            let listens = namespace.other();
            prop_assert_eq!(open(&f, listens, Proto::Tcp), lead(expected_tcp));
            prop_assert_eq!(open(&f, listens, Proto::Udp), lead(expected_udp));
            prop_assert_eq!([(open(&f, namespace, Proto::Tcp), open(&f, namespace, Proto::Udp))], others);
            let total: usize = ids.iter().map(|(_, _, id)| f.open_ports(*id).count()).sum();
            prop_assert_eq!(f.room(), usize::MAX - total);
        }
    }
}
