//! What both sides agree on in their SYNs: timestamps (RFC 7323), SACK (RFC 2018, RFC 6675), and what is held ahead of a
//! hole.

use super::super::conn::Stored;
use super::*;
use crate::wire::{SackBlocks, Timestamps};

const STAMPED: TcpOptions = TcpOptions { timestamps: stamp(100, 0), sack_permitted: true, ..SYN_OPTIONS };

const fn stamp(value: u32, echo: u32) -> Option<Timestamps> {
    Some(Timestamps { value, echo })
}

/// A guest that offers timestamps and SACK, and whose clock starts at 100.
fn modern(isn: (u32, u32)) -> Peer {
    let mut p = connecting_with(isn, Seg { options: STAMPED, ..SYN });
    p.conn.host_connected(p.now);
    p.conn.offer(OUR_WND);
    p.conn.ack_field();
    p.recv(at(100, ACK));
    p.conn.may_hold(true);
    p
}

/// The same without timestamps, and four segments under way.
fn holding(isn: (u32, u32)) -> Peer {
    let mut p = connecting_with(isn, Seg { options: TcpOptions { timestamps: None, ..STAMPED }, ..SYN });
    p.conn.host_connected(p.now);
    p.conn.offer(OUR_WND);
    p.recv(ACK);
    p.conn.may_hold(true);
    p
}

fn sacking(isn: (u32, u32)) -> Peer {
    let mut p = holding(isn);
    p.send(20 * MSS);
    p
}

/// A segment sent when the guest's clock said that; it has heard nothing of ours since the SYN.
fn at(value: u32, s: Seg) -> Seg {
    Seg { options: TcpOptions { timestamps: stamp(value, STAMP_OFFSET.wrapping_add(5000)), ..s.options }, ..s }
}

/// The guest has these of ours, and acknowledges all before `ack`.
fn sack(p: &Peer, ack: u32, blocks: &[(u32, u32)]) -> Seg {
    let mut sack = SackBlocks::default();
    for (from, to) in blocks {
        assert!(sack.push(((p.iss + *from).0, (p.iss + *to).0)));
    }
    Seg { ack, sack, ..ACK }
}

fn echoed(p: &Peer) -> Option<u32> {
    p.conn.options(p.now).timestamps.map(|t| t.echo)
}

/// Blocks of our next ACK, relative.
fn told(p: &mut Peer) -> Vec<(u32, u32)> {
    let irs = p.irs.0;
    let rel = |n: &u32| n.wrapping_sub(irs);
    p.conn.sack_blocks().as_slice().iter().map(|(a, b)| (rel(a), rel(b))).collect()
}

fact!(
    /// RFC 7323 §3.2 and RFC 2018 §2: only what the other side has offered.
    syn_ack_has_what_the_syn_had(p = modern) {
        let ours = p.conn.syn_options(start());
        assert_eq!((ours.sack_permitted, ours.timestamps), (true, stamp(STAMP_OFFSET.wrapping_add(5000), 100)));
        let plain = connecting((p.irs.0, p.iss.0)).conn;
        let ours = plain.syn_options(start());
        assert_eq!((ours.sack_permitted, ours.timestamps, plain.options(start())), (false, None, TcpOptions::NONE));
    }
);

fact!(syn_offers_all_and_keeps_what_is_answered(p = syn_sent) {
    let ours = p.conn.syn_options(p.now);
    assert_eq!((ours.sack_permitted, ours.timestamps), (true, stamp(STAMP_OFFSET.wrapping_add(5000), 0)));
    p.recv(Seg { options: TcpOptions { timestamps: stamp(7, 1), ..SYN_OPTIONS }, ..SYN_ACK });
    assert_eq!(p.conn.options(p.now).timestamps, stamp(STAMP_OFFSET.wrapping_add(5000), 7));
    let mut p = syn_sent((p.irs.0, p.iss.0));
    p.recv(SYN_ACK);
    assert_eq!(p.conn.options(p.now), TcpOptions::NONE);
});

fact!(
    /// RFC 9293 §3.7.1: a segment and its options are no longer than the size that was offered.
    options_take_from_the_segment(p = modern) {
        assert_eq!(p.conn.mss(), 1448);
    }
);

fact!(clock_counts_milliseconds(p = modern) {
    p.wait(1234);
    assert_eq!(p.conn.options(p.now).timestamps.unwrap().value, STAMP_OFFSET.wrapping_add(6234));
});

fact!(
    /// RFC 7323 §4.3: of several segments the first that the next ACK is for; of none that left a hole.
    echo_is_that_of_the_oldest_unacknowledged(p = modern) {
        p.recv(at(200, Seg { len: 10, ..ACK }));
        p.recv(at(210, Seg { seq: 11, len: 10, ..ACK }));
        assert_eq!(echoed(&p), Some(200));
        p.conn.ack_field();
        p.recv(at(220, Seg { seq: 31, len: 10, ..ACK }));
        assert_eq!(echoed(&p), Some(200));
        p.recv(at(230, Seg { seq: 21, len: 10, ..ACK }));
        assert_eq!(echoed(&p), Some(230));
    }
);

fact!(
    /// RFC 7323 §5.3 R1: answered, and nothing of it counts.
    old_segment_is_dropped_and_answered(p = modern) {
        p.recv(at(200, Seg { len: 10, ..ACK }));
        assert_eq!(p.recv(at(199, Seg { seq: 11, len: 10, win: 7, ..ACK })), Verdict { ack: true, ..NOTHING });
        assert_eq!((p.dropped(), p.numbers().2, echoed(&p)), (Some(DropReason::TcpTimestamp), 11, Some(200)));
        assert_eq!(p.recv(at(199, Seg { seq: 0, ..SYN })), Verdict { ack: true, ..NOTHING });
        p.recv(at(200, Seg { seq: 11, len: 10, ..ACK }));
        assert_eq!(p.taken(), Some((0, 10)));
        assert!(p.recv(at(1, Seg { seq: 21, ..RST })).reset_by_guest, "a RST is judged by its number");
    }
);

fact!(segment_without_a_timestamp_is_taken(p = modern) {
    assert_eq!((p.recv(Seg { len: 10, ..ACK }), p.taken()), (Verdict { ack: true, ..NOTHING }, Some((0, 10))));
});

fact!(
    /// RFC 7323 §5.5.
    clock_of_24_days_ago_means_nothing(p = modern) {
        p.recv(at(200, Seg { len: 10, ..ACK }));
        p.conn.ack_field();
        p.wait(25 * 86_400_000);
        p.recv(at(100, Seg { seq: 11, len: 10, ..ACK }));
        assert_eq!((p.taken(), echoed(&p)), (Some((0, 10)), Some(100)));
    }
);

fact!(
    /// RFC 7323 §4.1: what Karn's rule forbids without timestamps, they allow.
    round_trip_of_a_resent_segment_counts(p = modern) {
        p.send(1000);
        let (v, took) = p.timer();
        assert!(v.resend && took == 200, "{took}");
        p.wait(400);
        let echo = STAMP_OFFSET.wrapping_add(5200);
        p.recv(Seg { ack: 1001, options: TcpOptions { timestamps: stamp(101, echo), ..TcpOptions::NONE }, ..ACK });
        p.send(1000);
        let took = p.timer().1;
        assert!((440..460).contains(&took), "{took}");
    }
);

fact!(
    /// RFC 3522: an answer to the first sending says that the second was needless.
    late_answer_ends_the_repair_of_a_timeout(p = modern) {
        p.send(4000);
        p.timer();
        assert_eq!(p.resend(), (1, 1448));
        assert_eq!(p.conn.room(), 0);
        let v = p.recv(at(101, Seg { ack: 1001, ..ACK }));
        assert_eq!((v.acked, v.resend, v.may_send, p.resend()), (1000, false, true, (1001, 0)));
    }
);

fact!(
    /// RFC 6191: a newer clock makes a SYN newer than the connection, whatever its number.
    newer_clock_replaces_time_wait(p = modern) {
        p.send_fin();
        p.recv(at(300, Seg { ack: 2, ..FIN }));
        assert_eq!(p.state(), State::TimeWait);
        let takes = |value| p.conn.may_be_replaced_by(&p.header(&at(value, Seg { seq: 0, ..SYN })));
        assert_eq!((takes(301), takes(300), takes(299)), (true, false, false));
    }
);

fact!(
    /// RFC 6675 §4: more than two segments above it, and what is missing is lost: no need to wait for three ACKs.
    one_ack_may_tell_of_a_loss(p = sacking) {
        let hole = 1 + 2 * MSS;
        assert!(!p.recv(sack(&p, hole, &[(hole + MSS, hole + 3 * MSS)])).resend);
        let v = p.recv(sack(&p, hole, &[(hole + MSS, hole + 3 * MSS + 1)]));
        assert_eq!((v, p.resend(), p.resend()), (Verdict { resend: true, ..NOTHING }, (hole, MSS), (hole, 0)));
    }
);

fact!(
    /// RFC 6675 §5 (C): all holes that are known to be losses, each once; not what may still come.
    only_holes_are_resent(p = sacking) {
        let at = |n| 1 + n * MSS;
        assert!(p.recv(sack(&p, 1, &[(at(9), at(11)), (at(5), at(7)), (at(1), at(3))])).resend);
        assert_eq!([p.resend(), p.resend(), p.resend()], [(1, MSS), (at(3), 2 * MSS), (1, 0)]);
        assert!(p.recv(sack(&p, 1, &[(at(15), at(18)), (at(9), at(11))])).resend);
        assert_eq!([p.resend(), p.resend(), p.resend()], [(at(7), 2 * MSS), (at(11), 4 * MSS), (1, 0)]);
        let v = p.recv(sack(&p, at(15), &[]));
        assert_eq!((v.acked, v.may_send, p.resend()), (15 * MSS, true, (at(15), 0)));
    }
);

fact!(
    /// RFC 6675 §2: where there is SACK, an ACK that tells nothing is no sign of loss.
    bare_duplicates_mean_nothing_beside_sack(p = sacking) {
        for _ in 0..9 {
            assert_eq!(p.recv(ACK), NOTHING);
        }
        for n in 1..4 {
            assert_eq!(p.recv(sack(&p, 1, &[(1 + MSS, 1 + MSS + n)])).resend, n == 3);
        }
    }
);

fact!(
    /// RFC 2018 §8: a timeout forgets all, for the guest may have thrown it away.
    timeout_believes_no_blocks(p = sacking) {
        p.recv(sack(&p, 1, &[(1 + MSS, 1 + 10 * MSS)]));
        p.timer();
        assert_eq!((p.resend(), p.resend()), ((1, MSS), (1, 0)));
        p.recv(Seg { ack: 1 + MSS, ..ACK });
        assert_eq!(p.resend(), (1 + MSS, 2 * MSS));
        // But what it says from then on.
        p.recv(sack(&p, 1 + 3 * MSS, &[(1 + 4 * MSS, 1 + 6 * MSS)]));
        assert_eq!([p.resend(), p.resend(), p.resend()], [(1 + 3 * MSS, MSS), (1 + 6 * MSS, MSS), (1 + 3 * MSS, 0)]);
    }
);

fact!(blocks_that_cannot_be_are_ignored(p = sacking) {
    let end = 1 + 20 * MSS;
    for block in [(1, 9 * MSS), (9 * MSS, MSS), (MSS, MSS), (MSS, end + 1), (0, 9 * MSS), (end, end + 9 * MSS)] {
        let v = p.recv(sack(&p, 1, &[block]));
        assert_eq!((v.resend, p.resend().1), (false, 0), "{block:?}");
    }
    // Not agreed on: not read.
    let mut p = sending((p.irs.0, p.iss.0));
    assert_eq!((p.recv(sack(&p, 1, &[(1 + MSS, 1 + 4 * MSS)])), p.resend().1), (NOTHING, 0));
});

fact!(
    /// RFC 9293 §3.10.7.4: held, and taken once the hole is filled; RFC 2018 §4: the newest block first.
    what_is_ahead_of_a_hole_is_held(p = holding) {
        for (seq, blocks) in [(101, vec![(101, 151)]), (301, vec![(301, 351), (101, 151)]), (151, vec![(101, 201), (301, 351)])] {
            assert_eq!(p.recv(Seg { seq, len: 50, ..ACK }), Verdict { ack: true, ..NOTHING });
            assert_eq!(p.result, Ok(Accepted { skip: 0, take: 50, ahead: true }));
            assert_eq!(told(&mut p), blocks);
        }
        let stored = |p: &Peer, n, len| Some(Stored { from: p.irs + n, len });
        let v = p.recv(Seg { seq: 1, len: 100, ..ACK });
        assert_eq!((v.stored, p.taken(), p.numbers().2), (stored(&p, 101, 100), Some((0, 100)), 201));
        assert_eq!(told(&mut p), [(301, 351)]);
        let v = p.recv(Seg { seq: 201, len: 120, ..ACK });
        assert_eq!((v.stored, p.numbers().2, p.conn.holds_ahead()), (stored(&p, 321, 30), 351, false));
        assert_eq!(told(&mut p), []);
    }
);

fact!(end_ahead_of_a_hole_is_held_too(p = holding) {
    p.recv(Seg { seq: 101, len: 50, ..FIN });
    assert!(!p.recv(Seg { seq: 50, len: 20, ..ACK }).guest_fin);
    let v = p.recv(Seg { len: 100, ..ACK });
    assert_eq!((v.guest_fin, v.stored.map(|s| s.len), p.numbers().2), (true, Some(50), 152));
    assert!(!p.conn.holds_ahead());
});

fact!(bare_end_ahead_of_a_hole_is_held(p = holding) {
    p.recv(Seg { seq: 101, ..FIN });
    assert_eq!(told(&mut p), []);
    let v = p.recv(Seg { len: 100, ..ACK });
    assert_eq!((v.guest_fin, v.stored, p.numbers().2, p.conn.holds_ahead()), (true, None, 102, false));
});

fact!(nothing_is_taken_from_behind_an_end(p = holding) {
    p.recv(Seg { seq: 101, len: 50, ..FIN });
    p.recv(Seg { seq: 151, len: 50, ..ACK });
    let v = p.recv(Seg { len: 100, ..ACK });
    assert_eq!((v.guest_fin, v.stored.map(|s| s.len), p.numbers().2), (true, Some(50), 152));
    assert!(!p.conn.holds_ahead());
    // An end that data has passed since was none.
    let mut p = holding((p.irs.0, p.iss.0));
    p.recv(Seg { seq: 101, ..FIN });
    let v = p.recv(Seg { len: 150, ..ACK });
    assert_eq!((v.guest_fin, p.numbers().2, p.conn.holds_ahead()), (false, 151, false));
});

fact!(
    /// Not more than was offered, and not where there is no place.
    what_is_held_is_bounded(p = holding) {
        let edge = 1 + OUR_WND;
        p.recv(Seg { seq: edge - 10, len: 50, ..ACK });
        assert_eq!(p.result.map(|a| a.take), Ok(10));
        p.conn.may_hold(false);
        assert_eq!(p.recv(Seg { seq: 5000, len: 50, ..ACK }), Verdict { ack: true, ..NOTHING });
        assert_eq!(p.dropped(), Some(DropReason::TcpOutOfOrder));
        p.conn.may_hold(true);
        let held = (0..40).filter(|n| { p.recv(Seg { seq: 100 + 20 * n, len: 10, ..ACK }); p.result.is_ok() }).count();
        assert_eq!(held, 15);
    }
);

fact!(
    /// RFC 2883 §4: told once.
    duplicate_is_told(p = holding) {
        p.recv(Seg { len: 100, ..ACK });
        assert!(p.recv(Seg { seq: 11, len: 50, ..ACK }).ack);
        assert_eq!((told(&mut p), told(&mut p)), (vec![(11, 61)], vec![]));
    }
);

fact!(
    /// RFC 7323 §5.5: what ages is the timestamp, not the conversation: keep-alive probes leave it as it was.
    keep_alive_does_not_make_the_clock_run_out(p = modern) {
        p.recv(at(200, Seg { len: 10, ..ACK }));
        let mut value = 200u32;
        for _ in 0..310 {
            p.conn.ack_field();
            p.wait(7_200_000);
            value = value.wrapping_add(7_200_000);
            p.recv(at(value, Seg { seq: 10, ..ACK }));
        }
        p.recv(at(value.wrapping_add(1), Seg { seq: 11, len: 10, ..ACK }));
        assert_eq!((p.dropped(), p.taken()), (None, Some((0, 10))));
    }
);

fact!(clock_that_starts_after_the_syn_is_believed(p = connecting) {
    let zero = TcpOptions { timestamps: stamp(0, 0), ..STAMPED };
    let mut p = connecting_with((p.irs.0, p.iss.0), Seg { options: zero, ..SYN });
    p.conn.host_connected(p.now);
    p.conn.offer(OUR_WND);
    p.conn.ack_field();
    p.recv(at(0x9000_0000, ACK));
    assert_eq!((p.state(), echoed(&p)), (State::Established, Some(0x9000_0000)));
});

fact!(
    /// RFC 2018 §4: as many blocks as possible, whatever came in one batch.
    ranges_that_came_together_are_all_told(p = modern) {
        for seq in [101u32, 151, 301, 351, 401] {
            p.recv(at(200, Seg { seq, len: 50, ..ACK }));
        }
        assert_eq!(told(&mut p), [(301, 451), (101, 201)]);
        // One goes, those before the last ones stay.
        for seq in [601, 651, 701, 751] {
            p.recv(at(200, Seg { seq, len: 50, ..ACK }));
        }
        p.recv(at(200, Seg { seq: 1, len: 100, ..ACK }));
        assert_eq!(told(&mut p), [(601, 801), (301, 451)]);
    }
);

fact!(duplicate_of_what_is_held_is_told_as_well(p = holding) {
    p.recv(Seg { seq: 101, len: 100, ..ACK });
    p.recv(Seg { seq: 111, len: 50, ..ACK });
    assert_eq!((told(&mut p), told(&mut p)), (vec![(111, 161), (101, 201)], vec![(101, 201)]));
});

fact!(
    /// RFC 3522: what tells is the first sending again, not the last.
    answer_to_the_first_resend_proves_a_loss(p = modern) {
        p.send(10 * 1448);
        p.timer();
        let first = p.conn.options(p.now).timestamps.unwrap().value;
        p.resend();
        p.timer();
        p.resend();
        let options = TcpOptions { timestamps: stamp(101, first), ..TcpOptions::NONE };
        assert!(p.recv(Seg { ack: 1449, options, ..ACK }).resend);
        assert_eq!(p.resend().0, 1449);
    }
);

fact!(loss_that_is_known_when_a_repair_ends_is_the_next(p = sacking) {
    let at = |n| 1 + n * MSS;
    assert!(p.recv(sack(&p, 1, &[(at(1), at(10))])).resend);
    p.resend();
    p.send(10 * MSS);
    let mut v = NOTHING;
    let first = sack(&p, 1, &[(at(26), at(30)), (at(1), at(25))]);
    p.recv_into(first, &mut v);
    let second = sack(&p, at(25), &[(at(26), at(30))]);
    p.recv_into(second, &mut v);
    assert!(v.resend);
    assert_eq!((p.resend(), p.resend().1), ((at(25), MSS), 0));
});

/// Idle flows pay for what all flows have.
#[test]
fn loss_has_its_own_memory() {
    assert!(size_of::<Conn>() <= 160, "{}", size_of::<Conn>());
    assert!(size_of::<super::super::Flow>() <= 288, "{}", size_of::<super::super::Flow>());
    assert!(size_of::<crate::wire::Packet>() <= 128, "{}", size_of::<crate::wire::Packet>());
}
