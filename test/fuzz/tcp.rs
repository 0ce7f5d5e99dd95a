//! The TCP engine between a guest that does as a script says, and servers on loopback. Time passes when the script says so.

use std::time::Duration;

use super::peer::{Ends, Heard, Peer};
use super::world::{self, World};

/// Four bytes a step, behind one for the link and the kernel.
pub fn tcp(data: &[u8]) {
    let [how, script @ ..] = data else { return };
    let mut w = if how & 1 != 0 { World::offloading(65520) } else { World::plain() };
    if how & 2 != 0 {
        w.tcp.forgo_peek_offset();
    }
    let ends = Ends {
        macs: [world::GUEST_MAC, world::OUR_MAC],
        v4: [world::GUEST4, world::HOST4],
        v6: [world::GUEST6, world::HOST6],
    };
    let mut peers = [Peer::new(ends, how & 4 != 0, 4000), Peer::new(ends, how & 8 != 0, 4001)];
    if how & 16 != 0 {
        let (peer, client) = Peer::inbound(ends, how & 4 != 0, 80);
        peers[0] = peer;
        assert!(w.client_came(client, 80));
        w.turn(0);
        listen(&mut w, &mut peers);
    }
    if how & 32 != 0 {
        peers.iter_mut().for_each(Peer::is_modern);
    }
    for step in script.chunks_exact(4).take(60) {
        let step = [step[0], step[1], step[2], step[3]];
        match step[0] {
            // What no segment is.
            0xf0..=0xf7 => w.skip(Duration::from_millis([1, 250, 3000, 200_000][usize::from(step[1] & 3)])),
            0xf8..=0xff => {
                w.link.room = [usize::MAX, 0, 1, 20][usize::from(step[1] & 3)];
                w.link_ready();
            }
            op => guest_acts(&mut w, &mut peers[usize::from(op >> 7)], step),
        }
        w.turn(0);
        listen(&mut w, &mut peers);
    }
    wind_up(&mut w, &mut peers);
}

fn guest_acts(w: &mut World, peer: &mut Peer, step: [u8; 4]) {
    let frames = peer.step(step);
    let before = dropped(w);
    if !frames.is_empty() {
        w.guest_sends(&frames);
    }
    assert!(dropped(w) - before <= frames.len() as u64, "a segment is counted once");
}

fn dropped(w: &World) -> u64 {
    w.tcp.counters().drops().map(|(_, n)| n).sum()
}

fn listen(w: &mut World, peers: &mut [Peer]) {
    for s in w.seen() {
        assert!(s.frame.len() <= 14 + usize::from(w.link.caps.mtu), "{} bytes", s.frame.len());
        let peer = peers.iter_mut().find(|p| p.ports == (s.dst_port, s.src_port)).expect("a port of the guest's");
        peer.hear(&Heard {
            seq: s.seq,
            ack: s.ack,
            window: s.window,
            scale: s.scale,
            stamp: s.stamp,
            blocks: &s.blocks,
            syn: s.has('S'),
            fin: s.has('F'),
            rst: s.has('R'),
            has_ack: s.has('.'),
            payload: &s.payload,
        });
    }
}

/// However it stands: with a guest and servers that are gone for good, everything goes.
fn wind_up(w: &mut World, peers: &mut [Peer]) {
    w.link.room = usize::MAX;
    w.link_ready();
    peers.iter_mut().for_each(Peer::hang_up);
    for _ in 0..3000 {
        if w.tcp.is_empty() {
            break;
        }
        w.skip(Duration::from_secs(60));
        w.turn(0);
        listen(w, peers);
    }
    assert!(w.tcp.is_empty(), "{:?} never ends", w.tcp);
    assert_eq!(w.link.reserved(), 0);
}
