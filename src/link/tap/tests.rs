//! Which queue is read and written when. A pair of sockets that keep datagrams apart is as good as a queue of a tap.

use std::os::unix::net::UnixDatagram;

use super::*;
use crate::link::Link;

#[test]
fn one_that_takes_nothing_is_full_until_it_is_tried_again() {
    let (ours, guest) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let caps = Caps { csum: false, tso: false, uso: false, mtu: 1500 };
    let mut tap = Tap::new(vec![ours.into()], false, caps, Tee::default());
    let taken = (0..10_000).take_while(|_| tap.send(&[1; 60], Offload::NONE).is_ok()).count();
    assert!(taken < 10_000 && tap.is_stuck() && tap.room() == Room::Full);
    guest.recv(&mut [0; 60]).unwrap();
    tap.writable();
    assert_eq!((tap.room(), tap.send(&[1; 60], Offload::NONE), tap.lost()), (Room::Free, Ok(()), 0));
}

/// With as many queues, and the guest's ends of them.
fn tap(queues: usize) -> (Tap, Vec<UnixDatagram>) {
    let caps = Caps { csum: false, tso: false, uso: false, mtu: 1500 };
    let (ends, guest): (Vec<_>, Vec<_>) = (0..queues).map(|_| UnixDatagram::pair().unwrap()).unzip();
    for end in ends.iter().chain(&guest) {
        end.set_nonblocking(true).unwrap();
        // Room for more than a pass.
        socket2::SockRef::from(end).set_send_buffer_size(212_992).unwrap();
    }
    (Tap::new(ends.into_iter().map(Into::into).collect(), false, caps, Tee::default()), guest)
}

fn frame(protocol: u8) -> [u8; 60] {
    let mut frame = [0; 60];
    (frame[12], frame[ETH_LEN + 9]) = (8, protocol);
    frame
}

/// A pass over queues that are never empty, of those that are `busy`. Returns whose turn it was, and the frames.
fn pass(tap: &mut Tap, guest: &[UnixDatagram], busy: &[usize], protocol: u8) -> (usize, usize) {
    for queue in busy {
        // A pair of sockets takes some more than a pass has.
        while guest[*queue].send(&[&frame(protocol)[..], &[*queue as u8]].concat()).is_ok() {}
        tap.readable(*queue);
    }
    let mut batch = Batch::new();
    assert_eq!(tap.receive(&mut batch).unwrap(), Input::More);
    let last = batch.frames().next_back().unwrap().head[60];
    (last.into(), batch.len())
}

fn ways(tap: &Tap) -> [usize; 2] {
    tap.ways.map(|way| way.out)
}

/// A load fills queue 0: `follows` where we write, or stays. Returns where we write in the end, and the passes it took.
fn flooded(protocol: u8, follows: bool) -> (usize, u32) {
    let (mut tap, guest) = tap(2);
    for passes in 0..3 * PRESSED / SHORTS {
        let out = tap.ways[Lane::Common as usize].out;
        if !follows && out == 1 {
            return (1, passes);
        }
        let queue = if follows { out } else { 0 };
        pass(&mut tap, &guest, &[queue], protocol);
        if follows {
            // What it has left is empty before long.
            tap.pressed[1 - tap.ways[Lane::Common as usize].out] = 0;
        }
    }
    let way = tap.ways[Lane::Common as usize];
    (way.out, way.patience)
}

#[test]
fn a_flood_is_left_to_its_queue() {
    assert_eq!(flooded(17, false), (1, PRESSED / SHORTS));
}

#[test]
fn tcp_is_no_flood() {
    assert_eq!(flooded(PROTO_TCP, false), (0, PRESSED));
}

#[test]
fn a_load_that_follows_is_left_alone_for_longer_each_time() {
    // 16 passes, then 32.
    assert_eq!(flooded(17, true), (0, 2 * PRESSED));
}

#[test]
fn a_lane_evades_a_flood_to_a_queue_of_its_own_if_there_is_one() {
    for (queues, flood, ways_then) in [(3, 0, [2, 1]), (3, 1, [0, 2]), (3, 2, [0, 1]), (2, 0, [1, 1]), (2, 1, [0, 0])] {
        let (mut tap, guest) = tap(queues);
        assert_eq!(ways(&tap), [0, 1]);
        for _ in 0..16 {
            pass(&mut tap, &guest, &[flood], 17);
        }
        assert_eq!(ways(&tap), ways_then, "{queues} queues, a flood in {flood}");
        // Where there were too few, each has one of its own again when the flood is over.
        while tap.receive(&mut Batch::new()).unwrap() == Input::More {}
        assert_ne!(tap.ways[0].out, tap.ways[1].out, "{queues} queues, a flood in {flood}");
    }
    let (mut tap, guest) = tap(1);
    for _ in 0..32 {
        pass(&mut tap, &guest, &[0], 17);
    }
    assert_eq!(ways(&tap), [0, 0]);
}

#[test]
fn short_passes_press_less() {
    let (mut tap, guest) = tap(3);
    for passes in 0..16 * SHORTS {
        assert_eq!(ways(&tap), [0, 1], "after {passes}");
        guest[0].send(&frame(PROTO_TCP)).unwrap();
        tap.readable(0);
        assert_eq!(pass(&mut tap, &guest, &[1], 17), (1, 1 + SHORT.0));
    }
    assert_eq!(ways(&tap), [0, 2]);
}

#[test]
fn a_lane_is_for_one_frame_or_reservation() {
    let (tap, guest) = tap(3);
    // As the engines see it.
    let mut link = Link::Tap(Box::new(tap));
    let arrived = |queue: usize| guest[queue].recv(&mut [0; 100]).is_ok();
    link.steer(Lane::Bulk);
    link.send(&frame(PROTO_TCP), Offload::NONE).unwrap();
    assert_eq!([0, 1, 2].map(arrived), [false, true, false]);
    link.send(&frame(17), Offload::NONE).unwrap();
    assert_eq!([0, 1, 2].map(arrived), [true, false, false]);
    link.steer(Lane::Bulk);
    assert_eq!(link.reserve(2, 60, 10, Fill::Stream), 2);
    // An ACK of another flow does not take the areas elsewhere.
    link.send(&frame(PROTO_TCP), Offload::NONE).unwrap();
    link.commit(&frame(PROTO_TCP), 10, Offload::NONE).unwrap();
    assert_eq!([0, 1, 2].map(arrived), [true, true, false]);
    link.cancel();
    assert_eq!(link.reserve(1, 60, 10, Fill::Stream), 1);
    link.commit(&frame(PROTO_TCP), 10, Offload::NONE).unwrap();
    assert_eq!([0, 1, 2].map(arrived), [true, false, false]);
    link.diverts();
    let Link::Tap(tap) = link else { unreachable!() };
    assert_eq!(tap.row_left, Some(IN_A_ROW));
}

#[test]
fn queues_have_their_turns_and_the_common_one_the_first() {
    let (mut tap, guest) = tap(3);
    let turns: Vec<usize> = (0..8).map(|_| pass(&mut tap, &guest, &[0, 1, 2], PROTO_TCP).0).collect();
    assert_eq!(turns, [0, 1, 0, 2, 0, 1, 0, 2]);
    // Wherever it is.
    tap.ways = [2, 0].map(|out| Way { out, ..tap.ways[0] });
    let turns: Vec<usize> = (0..8).map(|_| pass(&mut tap, &guest, &[0, 1, 2], PROTO_TCP).0).collect();
    assert_eq!(turns, [2, 0, 2, 1, 2, 0, 2, 1]);
}

#[test]
fn what_a_flow_has_left_behind_is_read_before_what_may_have_overtaken_it() {
    let (mut tap, guest) = tap(2);
    let turns = |tap: &mut Tap, count: usize, protocol: u8| -> Vec<usize> {
        (0..count).map(|_| pass(tap, &guest, &[0, 1], protocol).0).collect()
    };
    let empty = |tap: &mut Tap| while tap.receive(&mut Batch::new()).unwrap() == Input::More {};
    // It is seen when a full batch is dealt with.
    assert_eq!(turns(&mut tap, 1, PROTO_TCP), [0]);
    tap.diverts();
    let row = IN_A_ROW as usize;
    assert_eq!(turns(&mut tap, row + 3, PROTO_TCP), [&vec![0; row + 1][..], &[1, 0]].concat());
    // However often somebody asks, others have their turn.
    let mut asked = |_| {
        tap.diverts();
        turns(&mut tap, 1, PROTO_TCP)[0]
    };
    let all: Vec<usize> = (0..4 * row).map(&mut asked).collect();
    assert!(all.iter().filter(|queue| **queue == 1).count() >= 3, "{all:?}");
    // It is for as long as there is something.
    tap.diverts();
    empty(&mut tap);
    assert_eq!(turns(&mut tap, 4, PROTO_TCP), [0, 1, 0, 1]);
    // Datagrams are no flow that has left.
    empty(&mut tap);
    tap.diverts();
    assert_eq!(turns(&mut tap, 4, 17), [0, 1, 0, 1]);
}

#[test]
fn passes_of_other_queues_are_short_while_the_common_one_is_in_use() {
    let (mut tap, guest) = tap(2);
    let mut flood = || pass(&mut tap, &guest, &[1], 17).1;
    assert_eq!(flood(), FRAMES);
    guest[0].send(&frame(17)).unwrap();
    // It is looked at when an event tells of it.
    assert_eq!(flood(), FRAMES);
    tap.readable(0);
    let mut flood = || pass(&mut tap, &guest, &[1], 17).1;
    assert_eq!(flood(), 1 + SHORT.0);
    for _ in 1..ATTENTIVE {
        assert_eq!(flood(), SHORT.0);
    }
    assert_eq!(flood(), FRAMES);
    // Where both have more than a pass, each takes one.
    let both: Vec<_> = (0..4).map(|_| pass(&mut tap, &guest, &[0, 1], 17)).collect();
    assert_eq!(both, [(0, FRAMES), (1, FRAMES), (0, FRAMES), (1, FRAMES)]);
}

#[test]
fn what_is_not_taken_is_counted() {
    let (ours, guest) = UnixDatagram::pair().unwrap();
    let caps = Caps { csum: false, tso: false, uso: false, mtu: 1500 };
    let mut tap = Tap::new(vec![ours.into()], false, caps, Tee::default());
    drop(guest);
    assert_eq!((tap.send(&[1; 60], Offload::NONE), tap.lost(), tap.sent().0), (Ok(()), 1, 0));
}
