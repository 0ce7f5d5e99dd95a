//! Whatever guest, server and link do, in any order.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use proptest::prelude::*;

use crate::world::{Guest, World};
use crate::{LOOPBACKS, connected, inbound};

#[derive(Clone, Debug)]
enum Op {
    /// Flags, sequence number and acknowledgment (from the right ones), window, payload length.
    Segment(String, i32, i32, u16, usize),
    Batch(usize),
    ServerWrites(usize),
    ServerReads,
    ServerShuts,
    ServerResets,
    LinkTakes(usize),
    TimePasses(u64),
    /// The guest takes what was sent and acknowledges it.
    GuestReads,
}

fn op() -> impl Strategy<Value = Op> {
    let off = || prop_oneof![5 => Just(0), 2 => -3000..3000, 1 => any::<i32>()];
    let flags = prop_oneof![6 => Just("."), 2 => Just("F."), 1 => Just("S"), 1 => Just("S."), 1 => Just("R"), 1 => Just("SF"), 1 => Just("")];
    let window = prop_oneof![Just(0), Just(65535), any::<u16>()];
    prop_oneof![
        6 => (flags, off(), off(), window, prop_oneof![Just(0), 0..1460usize])
            .prop_map(|(f, s, a, w, n)| Op::Segment(f.to_owned(), s, a, w, n)),
        2 => (1..100usize).prop_map(Op::Batch),
        3 => (1..200_000usize).prop_map(Op::ServerWrites),
        2 => Just(Op::ServerReads),
        1 => Just(Op::ServerShuts),
        1 => Just(Op::ServerResets),
        2 => prop_oneof![Just(usize::MAX), Just(0), 1..20usize].prop_map(Op::LinkTakes),
        2 => prop_oneof![Just(250), Just(3000), Just(200_000)].prop_map(Op::TimePasses),
        4 => Just(Op::GuestReads),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever guest, server and link do: no panic, and after each turn the audit finds no flow that nothing will move.
    #[test]
    fn p22146_nothing_stalls_and_nothing_breaks(
        inbound_first: bool, tso: bool, peek_offset: bool, ops in proptest::collection::vec(op(), 1..40)
    ) {
        let mut w = if tso { World::offloading(65520) } else { World::plain() };
        if !peek_offset {
            w.tcp.forgo_peek_offset();
        }
        let (mut g, server) = if inbound_first {
            let client = inbound(&mut w, LOOPBACKS[0]);
            (Guest::accept(&mut w), client)
        } else {
            connected(&mut w)
        };
        server.set_nonblocking(true).unwrap();
        let mut server = Some(server);
        let mut buf = vec![0; 1 << 20];
        for op in ops {
            apply(op, &mut w, &mut g, &mut server, &mut buf);
            w.turn(0);
        }
        // However it stands: with a guest that is gone for good, everything goes.
        w.link.room = usize::MAX;
        w.link_ready();
        drop(server);
        for _ in 0..3000 {
            if w.tcp.is_empty() {
                break;
            }
            w.skip(Duration::from_secs(60));
            w.turn(0);
        }
        prop_assert!(w.tcp.is_empty());
    }
}

fn apply(op: Op, w: &mut World, g: &mut Guest, server: &mut Option<TcpStream>, buf: &mut [u8]) {
    match op {
        Op::Segment(flags, seq, ack, window, len) => {
            let mut odd = g.clone();
            odd.rcv = g.rcv.wrapping_add(ack as u32);
            odd.window = window;
            w.guest_sends(&[odd.frame_at(&flags, g.nxt.wrapping_add(seq as u32), &buf[..len])]);
            if flags == "." && seq == 0 && ack == 0 {
                g.nxt = g.nxt.wrapping_add(len as u32);
            }
        }
        Op::Batch(n) => {
            let frames: Vec<_> = (0..n).map(|_| g.frame(".", &buf[..1460])).collect();
            w.guest_sends(&frames);
        }
        Op::ServerWrites(n) => {
            let _ = server.as_mut().map(|s| s.write(&buf[..n]));
        }
        Op::ServerReads => {
            let _ = server.as_mut().map(|s| s.read(buf));
        }
        Op::ServerShuts => {
            let _ = server.as_ref().map(|s| s.shutdown(Shutdown::Write));
        }
        Op::ServerResets => {
            if let Some(s) = server.take() {
                socket2::SockRef::from(&s).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        Op::LinkTakes(n) => {
            w.link.room = n;
            w.link_ready();
        }
        Op::TimePasses(ms) => w.skip(Duration::from_millis(ms)),
        Op::GuestReads => {
            let seen = w.seen();
            g.take(&seen);
            g.ack(w);
        }
    }
}
