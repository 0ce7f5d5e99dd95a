//! The state machine, one fact a test. Numbers are relative to the initial ones, as tcpdump shows them: the guest's SYN
//! and ours are 0. Every fact holds for every pair of initial sequence numbers, wrapping ones included.

mod close;
mod data;
mod handshake;
mod options;
mod random;
mod recovery;
mod turns;

use std::time::Duration;

use super::conn::{Accepted, Conn, Start, State, Verdict};
use super::frame_payload;
use super::seq::Seq;
use crate::base::{Addr, DropReason, Instant};
use crate::wire::{ETH_LEN, STAMP_LEN, SackBlocks, SackPlace, TCP_LEN, TcpFlags, TcpHeader, TcpOptions, ip_len};

/// Initial sequence numbers: the guest's and ours.
const ISNS: [(u32, u32); 7] = [
    (0, 0),
    (1000, 70_000),
    (u32::MAX, u32::MAX),
    (u32::MAX - 1, u32::MAX - 1),
    (u32::MAX - 3000, u32::MAX - 5000),
    (i32::MAX as u32, i32::MAX as u32 - 2),
    (i32::MAX as u32 - 2000, 1 << 31),
];

/// The window the guest offers, and the one offered to it once established.
const WND: u16 = 30_000;
const OUR_WND: u32 = 64_000;
const MSS: u32 = 1460;
/// So that timestamps pass their largest number soon after the start.
const STAMP_OFFSET: u32 = u32::MAX - 5_010;

/// A segment of the guest.
#[derive(Clone, Copy)]
struct Seg {
    seq: u32,
    ack: u32,
    flags: TcpFlags,
    win: u16,
    len: usize,
    options: TcpOptions,
    sack: SackBlocks,
}

const SYN_OPTIONS: TcpOptions = TcpOptions { mss: Some(1460), window_scale: Some(0), ..TcpOptions::NONE };
const SYN: Seg =
    Seg { seq: 0, ack: 0, flags: TcpFlags::SYN, win: WND, len: 0, options: SYN_OPTIONS, sack: SackBlocks::NONE };
const SYN_ACK: Seg = Seg { ack: 1, flags: TcpFlags::SYN.union(TcpFlags::ACK), ..SYN };
const ACK: Seg =
    Seg { seq: 1, ack: 1, flags: TcpFlags::ACK, win: WND, len: 0, options: TcpOptions::NONE, sack: SackBlocks::NONE };
const FIN: Seg = Seg { flags: TcpFlags::FIN.union(TcpFlags::ACK), ..ACK };
const RST: Seg = Seg { flags: TcpFlags::RST, ..ACK };

const NOTHING: Verdict = Verdict {
    acked: 0,
    established: false,
    ack: false,
    dup_acks: 0,
    resend: false,
    stored: None,
    guest_fin: false,
    may_send: false,
    reset_by_guest: false,
    refuse: false,
    abort: false,
};

/// A connection and how it looks from outside.
struct Peer {
    conn: Conn,
    irs: Seq,
    iss: Seq,
    now: Instant,
    result: Result<Accepted, DropReason>,
}

impl Peer {
    fn header(&self, s: &Seg) -> TcpHeader {
        TcpHeader {
            src_port: 1,
            dst_port: 2,
            seq: (self.irs + s.seq).0,
            ack: (self.iss + s.ack).0,
            flags: s.flags,
            window: s.win,
            options: s.options,
            sack: SackPlace::default(),
        }
    }

    fn recv(&mut self, s: Seg) -> Verdict {
        let mut v = NOTHING;
        self.recv_into(s, &mut v);
        v
    }

    fn recv_into(&mut self, s: Seg, v: &mut Verdict) {
        let t = self.header(&s);
        let written = TcpOptions::NONE.write(&s.sack);
        // Behind two bytes of padding, kind and length.
        let sack = written.get(4..).unwrap_or_default();
        self.result = self.conn.on_segment(&t, sack, s.len, s.len, self.now, v);
    }

    /// Bytes of the last segment that were taken.
    fn taken(&self) -> Option<(usize, usize)> {
        self.result.ok().map(|a| (a.skip, a.take))
    }

    fn dropped(&self) -> Option<DropReason> {
        self.result.err()
    }

    fn send(&mut self, n: u32) {
        self.conn.sent(n, self.now);
    }

    fn send_fin(&mut self) {
        self.conn.host_ended();
        assert!(self.conn.fin_due());
        self.conn.sent_fin(self.now);
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
    }

    /// Waits for the next deadline; returns what it brings and how long it took, in ms.
    fn timer(&mut self) -> (Verdict, u64) {
        let before = self.now;
        self.now = self.conn.deadline();
        let mut v = NOTHING;
        self.conn.on_timer(self.now, &mut v);
        (v, self.now.since(before).as_millis() as u64)
    }

    fn rel(&self, s: Seq) -> u32 {
        s.0.wrapping_sub(self.iss.0)
    }

    /// (oldest unacknowledged, next to send, next expected)
    fn numbers(&self) -> (u32, u32, u32) {
        (self.rel(self.conn.una()), self.rel(self.conn.nxt()), self.conn.rcv_nxt().0.wrapping_sub(self.irs.0))
    }

    /// What a resend would cover: start and length.
    fn resend(&mut self) -> (u32, u32) {
        let Some((from, len)) = self.conn.next_hole() else { return (self.rel(self.conn.una()), 0) };
        self.conn.resent(from, len);
        (self.rel(from), len)
    }

    fn state(&self) -> State {
        self.conn.state()
    }
}

fn from(iss: Seq) -> Start {
    Start { iss, stamp_offset: STAMP_OFFSET, mss: MSS as u16, shift: 8 }
}

fn start() -> Instant {
    Instant::from_nanos(5_000_000_000)
}

fn connecting_with(isn: (u32, u32), syn: Seg) -> Peer {
    let (irs, iss) = (Seq(isn.0), Seq(isn.1));
    let mut p = Peer {
        conn: Conn::from_host_accept(&from(iss), start()),
        irs,
        iss,
        now: start(),
        result: Ok(Accepted::default()),
    };
    p.conn = Conn::from_guest_syn(&p.header(&syn), &from(iss), start());
    p
}

fn connecting(isn: (u32, u32)) -> Peer {
    connecting_with(isn, SYN)
}

fn syn_received(isn: (u32, u32)) -> Peer {
    let mut p = connecting(isn);
    p.conn.host_connected(p.now);
    p.conn.offer(OUR_WND);
    p
}

fn syn_sent(isn: (u32, u32)) -> Peer {
    let mut p = connecting(isn);
    p.conn = Conn::from_host_accept(&from(p.iss), p.now);
    p.conn.sent_syn(p.now);
    p
}

fn established(isn: (u32, u32)) -> Peer {
    let mut p = syn_received(isn);
    p.recv(ACK);
    assert_eq!(p.state(), State::Established);
    assert_eq!(p.conn.offered(), OUR_WND);
    p
}

/// Four segments under way.
fn sending(isn: (u32, u32)) -> Peer {
    let mut p = established(isn);
    p.send(4 * MSS);
    p
}

/// `fact!(name(p = factory) { body })`: the body for each pair of initial numbers.
macro_rules! fact {
    ($(#[$doc:meta])* $name:ident($p:ident = $factory:ident) $body:block) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            for isn in ISNS {
                #[allow(unused_mut, reason = "a fact may only look")]
                let mut $p = $factory(isn);
                $body
            }
        }
    };
}
use fact;

/// Virtio 1.2 §5.1.6.3.1: 65562 bytes, 12 of them for the driver's header.
#[test]
fn large_frames_fit_the_buffers_that_drivers_have_for_them() {
    for remote in [Addr::V4_UNSPECIFIED, Addr::V6_UNSPECIFIED] {
        for (mss, options) in (88..=65_460).flat_map(|mss| [(mss, 0), (mss, STAMP_LEN)]) {
            let payload = frame_payload(mss, &remote, options, true);
            assert!(payload > 0 && (payload < mss.into() || payload.is_multiple_of(mss.into())));
            let len = ETH_LEN + ip_len(remote.family()) + TCP_LEN + options + payload;
            assert!(len <= 65_562 - 12, "{len} bytes of segments of {mss}");
        }
    }
}
