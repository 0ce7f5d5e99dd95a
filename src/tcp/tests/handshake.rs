//! Opening: RFC 9293 §3.5, §3.10.7.3, §3.10.7.4; options: RFC 9293 §3.7.1, RFC 7323 §2.

use super::*;

/// Segment size and window shift of our SYN.
fn offered(p: &Peer) -> (Option<u16>, Option<u8>) {
    let options = p.conn.syn_options(p.now);
    (options.mss, options.window_scale)
}

fact!(host_connected_then_acknowledged(p = connecting) {
    assert_eq!((p.state(), p.conn.deadline()), (State::Connecting, Instant::FAR));
    p.conn.host_connected(p.now);
    assert_eq!((p.state(), p.numbers()), (State::SynReceived, (0, 1, 1)));
    assert_eq!(p.recv(ACK), Verdict { established: true, may_send: true, ..NOTHING });
    assert_eq!((p.state(), p.numbers(), p.conn.in_flight()), (State::Established, (1, 1, 1), 0));
});

fact!(inbound_is_acknowledged_at_once(p = syn_sent) {
    assert_eq!(p.recv(SYN_ACK), Verdict { established: true, may_send: true, ack: true, ..NOTHING });
    assert_eq!((p.state(), p.numbers()), (State::Established, (1, 1, 1)));
    // The window of our SYN is a promise, and the guest's counts from the number it acknowledged.
    assert_eq!((p.conn.offered(), p.conn.room()), (65535, u32::from(WND)));
});

fact!(syn_again_while_connecting_is_ignored(p = connecting) {
    assert_eq!(p.recv(SYN), NOTHING);
    assert_eq!(p.state(), State::Connecting);
});

fact!(
    /// RFC 5961 §3.2 holds from the beginning.
    reset_while_connecting_must_be_exact(p = connecting) {
        assert_eq!(p.recv(Seg { seq: 2, ..RST }), NOTHING);
        assert!(p.recv(RST).reset_by_guest);
        assert_eq!(p.state(), State::Closed);
    }
);

fact!(syn_again_draws_the_syn_ack_again(p = syn_received) {
    assert_eq!(p.recv(SYN), Verdict { resend: true, ..NOTHING });
    assert_eq!(p.numbers(), (0, 1, 1));
});

fact!(
    /// RFC 9293 §3.8.1: retransmissions carry the same sequence number.
    d3_syn_ack_is_repeated_unchanged_then_given_up(p = syn_received) {
        let (options, window) = (offered(&p), p.conn.window_field(true));
        for wait in [1000, 2000, 4000, 8000, 16000, 32000, 64000] {
            assert_eq!(p.timer(), (Verdict { resend: true, ..NOTHING }, wait));
            assert_eq!((p.numbers(), offered(&p), p.conn.window_field(true)), ((0, 1, 1), options, window));
        }
        assert_eq!(p.timer(), (Verdict { abort: true, ..NOTHING }, 120_000));
    }
);

fact!(b153_d3_syn_is_repeated_unchanged_then_given_up(p = syn_sent) {
    let (options, window) = (offered(&p), p.conn.window_field(true));
    for wait in [1000, 2000, 4000, 8000, 16000, 32000, 64000] {
        assert_eq!(p.timer(), (Verdict { resend: true, ..NOTHING }, wait));
        assert_eq!((p.rel(p.conn.una()), offered(&p), p.conn.window_field(true)), (0, options, window));
    }
    assert!(p.timer().0.abort);
});

fact!(
    /// RFC 9293 §3.10.7.4, fifth check: in ESTABLISHED, processing goes on with the same segment.
    d23_data_with_the_last_ack_of_the_handshake_counts(p = syn_received) {
        let v = p.recv(Seg { len: 100, ..ACK });
        assert_eq!((v.established, v.ack, p.taken(), p.numbers()), (true, true, Some((0, 100)), (1, 1, 101)));
    }
);

fact!(fin_with_the_last_ack_of_the_handshake_counts(p = syn_received) {
    let v = p.recv(Seg { len: 10, ..FIN });
    assert_eq!((v.established, v.guest_fin, p.numbers().2), (true, true, 12));
});

fact!(
    /// RFC 9293 §3.10.7.4: in SYN-RECEIVED a wrong ACK is answered with a RST.
    wrong_ack_of_our_syn_ack_is_refused(p = syn_received) {
        for ack in [0, 2, 1 << 31] {
            assert!(p.recv(Seg { ack, ..ACK }).refuse);
            assert_eq!((p.state(), p.numbers()), (State::SynReceived, (0, 1, 1)));
        }
    }
);

fact!(
    /// RFC 9293 §3.10.7.3, first check.
    d25_syn_ack_with_a_wrong_ack_is_refused(p = syn_sent) {
        for ack in [0, 2, 0x8000_0001] {
            assert_eq!(p.recv(Seg { ack, ..SYN_ACK }), Verdict { refuse: true, ..NOTHING });
            assert_eq!((p.state(), p.rel(p.conn.una())), (State::SynSent, 0));
        }
    }
);

fact!(bare_ack_does_not_answer_a_syn(p = syn_sent) {
    assert_eq!(p.recv(ACK), NOTHING);
    assert_eq!(p.state(), State::SynSent);
});

fact!(
    /// RFC 9293 §3.10.7.3, second check: only with an acceptable ACK.
    reset_answers_a_syn_only_if_it_acknowledges_it(p = syn_sent) {
        assert_eq!(p.recv(RST), NOTHING);
        let refusal = Seg { flags: TcpFlags::RST | TcpFlags::ACK, ..RST };
        assert_eq!(p.recv(Seg { ack: 2, ..refusal }), NOTHING);
        assert!(p.recv(refusal).reset_by_guest);
    }
);

fact!(
    /// RFC 9293 §3.5, figure 7.
    simultaneous_open(p = syn_sent) {
        assert_eq!(p.recv(SYN), Verdict { resend: true, ..NOTHING });
        assert_eq!((p.state(), p.numbers()), (State::SynReceived, (0, 1, 1)));
        assert_eq!(p.recv(SYN_ACK), Verdict { established: true, may_send: true, ack: true, ..NOTHING });
        assert_eq!((p.state(), p.numbers(), p.conn.room()), (State::Established, (1, 1, 1), u32::from(WND)));
    }
);

fact!(
    /// RFC 9293 §3.10.7.4: SND.WND is that of the segment that establishes, not of the SYN before it.
    the_end_of_a_simultaneous_open_has_the_window_that_counts(p = syn_sent) {
        p.recv(SYN);
        assert!(p.recv(Seg { win: 1, ..SYN_ACK }).established);
        assert_eq!(p.conn.room(), 1);
        p.recv(Seg { win: 500, ..ACK });
        assert_eq!(p.conn.room(), 500);
    }
);

fact!(simultaneous_open_may_end_with_a_bare_ack(p = syn_sent) {
    p.recv(SYN);
    assert!(p.recv(ACK).established);
});

fact!(
    /// RFC 7323 §2.2: no option from the peer, no scaling either way.
    d2_window_scale_only_if_offered(p = connecting) {
        assert_eq!(offered(&p), (Some(1460), Some(8)));
        let mut p = connecting_with((p.irs.0, p.iss.0), Seg { options: TcpOptions { window_scale: None, ..SYN_OPTIONS }, ..SYN });
        assert_eq!(offered(&p), (Some(1460), None));
        p.conn.host_connected(p.now);
        p.conn.offer(1 << 20);
        assert_eq!((p.conn.window_field(true), p.conn.offered()), (65535, 65535));
        p.recv(ACK);
        assert_eq!((p.conn.window_field(false), p.conn.room()), (65535, u32::from(WND)));
    }
);

fact!(d2_no_scaling_if_the_syn_ack_has_none(p = syn_sent) {
    assert_eq!(offered(&p), (Some(1460), Some(8)));
    p.recv(Seg { options: TcpOptions { window_scale: None, ..SYN_OPTIONS }, ..SYN_ACK });
    assert_eq!(p.conn.window_field(false), 65535);
});

fact!(
    /// RFC 7323 §2.3: a shift above 14 counts as 14; the SYN's own window is not scaled.
    shift_is_limited(p = syn_sent) {
        p.recv(Seg { options: TcpOptions { window_scale: Some(255), ..SYN_OPTIONS }, win: 1000, ..SYN_ACK });
        assert_eq!(p.conn.room(), 1000);
        p.recv(Seg { win: 1, ..ACK });
        assert_eq!(p.conn.room(), 1 << 14);
    }
);

/// RFC 9293 §3.7.1, and a floor against CVE-2019-11479; 0 to 3 must not end as a division or an endless loop.
#[test]
fn d1_segment_size_has_a_default_a_floor_and_a_ceiling() {
    let cases = [(None, 536), (Some(0), 88), (Some(1), 88), (Some(2), 88), (Some(3), 88), (Some(87), 88)];
    for (offer, used) in cases.into_iter().chain([(Some(536), 536), (Some(1460), 1460), (Some(65535), 1460)]) {
        assert_eq!(
            connecting_with((1, 1), Seg { options: TcpOptions { mss: offer, ..SYN_OPTIONS }, ..SYN }).conn.mss(),
            used,
            "{offer:?}"
        );
        let mut p = syn_sent((1, 1));
        p.recv(Seg { options: TcpOptions { mss: offer, ..SYN_OPTIONS }, ..SYN_ACK });
        assert_eq!(p.conn.mss(), used, "{offer:?}");
    }
}

fact!(
    /// RFC 6298 §3 (Karn), §5.7: after a repetition the round trip is ambiguous, and longer than was thought.
    repeated_syn_ack_gives_no_round_trip(p = syn_received) {
        p.timer();
        p.wait(10);
        p.recv(ACK);
        p.send(1);
        assert_eq!(p.timer().1, 3000);
    }
);

fact!(
    /// RFC 5961 §4.2: a challenge, whatever the number.
    d9_syn_in_a_connection_draws_a_challenge(p = established) {
        for (seq, flags) in [(0, TcpFlags::SYN), (1, TcpFlags::SYN), (1 << 30, SYN_ACK.flags), (0, SYN_ACK.flags)] {
            assert_eq!(p.recv(Seg { seq, flags, ..SYN }), Verdict { ack: true, ..NOTHING });
            assert_eq!((p.state(), p.numbers()), (State::Established, (1, 1, 1)));
        }
    }
);

fact!(syn_with_fin_is_a_syn(p = established) {
    assert_eq!(p.recv(Seg { flags: TcpFlags::SYN | TcpFlags::FIN, ..ACK }), Verdict { ack: true, ..NOTHING });
    assert!(!p.conn.guest_has_ended());
});

fact!(
    /// RFC 9293 §3.10.7.4: without ACK a segment is dropped.
    segments_without_ack_syn_or_rst_do_nothing(p = established) {
        for flags in [TcpFlags::empty(), TcpFlags::FIN, TcpFlags::PSH | TcpFlags::URG, TcpFlags::FIN | TcpFlags::URG] {
            assert_eq!(p.recv(Seg { flags, len: 5, ..ACK }), NOTHING);
            assert_eq!((p.dropped(), p.numbers()), (Some(DropReason::TcpUnacceptable), (1, 1, 1)));
        }
    }
);
