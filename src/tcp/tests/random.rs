//! Whatever a guest sends: no panic, and what must never happen does not.

use proptest::prelude::*;

use super::super::conn::AHEAD_BYTES;
use super::*;
use crate::wire::Timestamps;

#[derive(Clone, Debug)]
enum Op {
    /// Flags, sequence number (offset from the next expected), acknowledgment (offset from the next to send), window, length.
    Segment(u8, i64, i64, u16, usize, Option<Extra>),
    /// Whether segments ahead of a hole may be held from now on.
    Hold(bool),
    Send(u32),
    HostEnds,
    Timer,
    Offer(u32),
}

/// Timestamp, its echo, and the start and end of a block (offset from the next to send).
type Extra = (u32, u32, i64, i64);

fn op() -> impl Strategy<Value = Op> {
    let near = || prop_oneof![4 => Just(0i64), 4 => -3000..3000i64, 1 => -200_000..200_000i64, 1 => any::<i32>().prop_map(i64::from)];
    let flags =
        prop_oneof![6 => Just(0x10u8), 2 => Just(0x11), 1 => Just(2), 1 => Just(0x12), 1 => Just(4), 1 => any::<u8>()];
    let len = prop_oneof![3 => Just(0usize), 3 => 1..3000usize, 1 => 0..65536usize];
    let clock = || prop_oneof![3 => 0..50u32, 1 => any::<u32>()];
    let extra = proptest::option::of((clock(), clock(), near(), near()));
    prop_oneof![
        8 => (flags, near(), near(), prop_oneof![Just(0u16), any::<u16>()], len, extra)
            .prop_map(|(f, s, a, w, l, e)| Op::Segment(f, s, a, w, l, e)),
        1 => any::<bool>().prop_map(Op::Hold),
        3 => (0..20_000u32).prop_map(Op::Send),
        1 => Just(Op::HostEnds),
        2 => Just(Op::Timer),
        2 => (0..300_000u32).prop_map(Op::Offer),
    ]
}

/// The guest's stream is its own positions, so that bytes taken out of order or twice show.
fn run(mut p: Peer, ops: Vec<Op>) {
    let mut stream = p.conn.rcv_nxt();
    let mut held = std::collections::HashSet::new();
    let mut edge = None;
    for op in ops {
        let before = (p.conn.una(), p.conn.nxt(), p.conn.guest_has_ended(), p.state());
        let mut v = NOTHING;
        match op {
            Op::Segment(flags, seq, ack, window, len, extra) => {
                let mut sack = Vec::new();
                let mut options = TcpOptions {
                    mss: Some(window),
                    window_scale: Some(flags),
                    sack_permitted: len % 2 == 0,
                    ..TcpOptions::NONE
                };
                if let Some((value, echo, from, to)) = extra {
                    options.timestamps = Some(Timestamps { value, echo });
                    let at = |n: i64| p.conn.nxt().0.wrapping_add(n as u32).to_be_bytes();
                    sack = [at(from), at(to)].concat();
                }
                let t = TcpHeader {
                    src_port: 1,
                    dst_port: 2,
                    seq: p.conn.rcv_nxt().0.wrapping_add(seq as u32),
                    ack: p.conn.nxt().0.wrapping_add(ack as u32),
                    flags: TcpFlags::from_bits_retain(flags),
                    window,
                    options,
                    sack: SackPlace::default(),
                };
                let result = p.conn.on_segment(&t, &sack, len, len / 3, p.now, &mut v);
                if before.3 == State::SynSent && p.state() != State::SynSent {
                    stream = p.conn.rcv_nxt();
                }
                if let Ok(Accepted { skip, take, ahead }) = result {
                    assert!(skip + take <= len);
                    assert!(take == 0 || !before.2, "data after the end");
                    let start = Seq(t.seq) + skip as u32;
                    if ahead {
                        assert!(skip == 0 && start > stream && (start + take as u32).since(stream) <= AHEAD_BYTES);
                        held.extend((0..take as u32).map(|n| (start + n).0));
                    } else {
                        assert!(take == 0 || start == stream, "out of order");
                        stream += take as u32;
                    }
                }
                if let Some(stored) = v.stored {
                    assert_eq!(stored.from, stream);
                    assert!((0..stored.len).all(|n| held.contains(&(stream + n).0)), "never held");
                    stream += stored.len;
                }
                stream += u32::from(v.guest_fin);
                assert_eq!(stream, p.conn.rcv_nxt());
                assert!(v.dup_acks <= 3);
            }
            Op::Send(n) => p.send(n.min(p.conn.room())),
            Op::HostEnds if p.state() == State::Established => {
                p.conn.host_ended();
                if p.conn.fin_due() {
                    p.conn.sent_fin(p.now);
                }
            }
            Op::HostEnds if p.state() == State::Connecting => p.conn.host_connected(p.now),
            Op::HostEnds => {}
            Op::Timer if p.conn.deadline() != Instant::FAR => {
                p.now = p.conn.deadline();
                p.conn.on_timer(p.now, &mut v);
                assert!(p.conn.deadline() > p.now || v.abort, "it fires for ever");
            }
            Op::Timer => p.wait(5),
            Op::Offer(space) => p.conn.offer(space),
            Op::Hold(may) => p.conn.may_hold(may),
        }
        let (una, nxt) = (p.conn.una(), p.conn.nxt());
        assert!(una <= nxt && una >= before.0 && nxt >= before.1);
        assert!(v.acked <= una.since(before.0));
        assert!(nxt.since(p.conn.una()) <= 1 << 30);
        assert!(p.conn.in_flight() <= nxt.since(una));
        if let Some((from, len)) = p.conn.next_hole() {
            assert!(from >= una && (from + len).since(una) <= p.conn.in_flight());
        }
        for (from, to) in p.conn.sack_blocks().as_slice() {
            assert!(Seq(*from) < Seq(*to));
        }
        assert_eq!(before.2 || v.guest_fin, p.conn.guest_has_ended());
        if matches!(p.state(), State::Established | State::TimeWait) {
            let syn_window = edge.is_none();
            let now = p.conn.rcv_nxt() + (u32::from(p.conn.window_field(false)) << (8 * u32::from(p.conn.scaled())));
            assert!(syn_window || edge.is_some_and(|e| now >= e), "the window moved left");
            edge = Some(now);
        }
        if p.state() == State::Closed || v.abort {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn anything_goes(isn in any::<(u32, u32)>(), from in 0..4, ops in proptest::collection::vec(op(), 1..80)) {
        let p = match from {
            0 => connecting(isn),
            1 => syn_received(isn),
            2 => syn_sent(isn),
            _ => established(isn),
        };
        run(p, ops);
    }
}
