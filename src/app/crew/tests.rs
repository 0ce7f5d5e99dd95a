use super::*;
use crate::wire::Offload;

fn crew(workers: usize) -> Vec<Crew> {
    Seat::for_crew(workers).unwrap().into_iter().filter_map(|seat| seat.crew).collect()
}

#[test]
fn one_worker_needs_no_crew() {
    assert!(crew(1).is_empty());
}

#[test]
fn what_is_on_its_way_is_bounded() {
    let mut crew = crew(2);
    let head = vec![0; 1 << 20];
    let frame = Frame { head: &head, rest: &[], offload: Offload::NONE };
    let taken = |crew: &mut Crew| {
        let taken = (0..6).filter(|_| crew.pack(1, &frame)).count();
        crew.send_parcels();
        taken
    };
    assert_eq!(taken(&mut crew[0]), 4);
    assert_eq!(taken(&mut crew[0]), 0);
    assert!(matches!(crew[1].receive(), Some(Message::Frames(copies)) if copies.frames().count() == 4));
    assert_eq!(taken(&mut crew[0]), 4);
}

#[test]
fn connections_go_round_among_those_who_can_reach_the_guest() {
    let mut crew = crew(4);
    crew[0].able = 0b1011;
    assert_eq!((0..4).map(|_| crew[0].choose()).collect::<Vec<_>>(), [1, 3, 0, 1]);
}

#[test]
fn flows_of_the_others_are_known_by_kind() {
    let crew = crew(3);
    crew[1].share_flows(&Flows { tcp: 7, udp: 2, ..Flows::default() });
    let ours = Flows { udp: 5, ..Flows::default() };
    assert_eq!(crew[0].share_flows(&ours), Flows { tcp: 7, udp: 2, ..Flows::default() });
    assert_eq!(crew[2].flows_of_others(), Flows { tcp: 7, udp: 7, ..Flows::default() });
}

#[test]
fn ports_are_reserved_until_the_last_of_them_is_closed() {
    let mut crew = crew(2);
    crew[0].reserve([65535, 80]);
    crew[0].reserve([80, 80]);
    crew[0].unreserve([65535, 80]);
    let reserved = [65535, 80, 64].map(|port| crew[1].is_reserved(port));
    assert_eq!(reserved, [false, true, false]);
    crew[0].unreserve([80, 80]);
    assert!(!crew[1].is_reserved(80));
}

#[test]
fn what_one_has_seen_leaves_alone_what_others_have() {
    let mac = |n| Mac([2, 0, 0, 0, 0, n]);
    let addr = |n| Some(Addr::v4([192, 0, 2, n]));
    let seen = |m, v4, v6| Seen { mac: mac(m), v4, v6, link_local: None };
    let mut l2 = L2 {
        our_mac: mac(9),
        guest_mac: mac(1),
        guest_v4: addr(1),
        guest_v6: addr(3),
        guest_link_local: None,
        neighbours: Default::default(),
    };
    seen(1, addr(2), None).apply(seen(1, addr(1), None), &mut l2);
    assert_eq!(Seen::of(&l2), seen(1, addr(2), addr(3)));
}
