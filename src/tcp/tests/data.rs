//! Data from the guest and the windows: RFC 9293 §3.8.6, §3.10.7.4; RFC 5961 §5; RFC 5681 §3.2.

use super::*;

fact!(data_in_order_is_taken_and_acknowledged(p = established) {
    assert_eq!(p.recv(Seg { len: 500, ..ACK }), Verdict { ack: true, ..NOTHING });
    assert_eq!((p.taken(), p.numbers()), (Some((0, 500)), (1, 1, 501)));
});

fact!(
    /// RFC 9293 §3.10.7.4: every segment that is not acceptable is answered.
    d8_old_segment_is_answered(p = established) {
        p.recv(Seg { len: 500, ..ACK });
        for (seq, len) in [(1, 500), (1, 1), (101, 400), (500, 1), (500, 0)] {
            assert_eq!(p.recv(Seg { seq, len, ..ACK }), Verdict { ack: true, ..NOTHING }, "{seq} {len}");
            assert_eq!(p.numbers().2, 501);
        }
    }
);

fact!(overlap_is_trimmed(p = established) {
    p.recv(Seg { len: 500, ..ACK });
    assert!(p.recv(Seg { seq: 401, len: 300, ..ACK }).ack);
    assert_eq!((p.taken(), p.numbers().2), (Some((100, 200)), 701));
});

fact!(
    /// RFC 5681 §3.2: an immediate duplicate ACK for each segment ahead of a hole.
    d8_hole_draws_one_duplicate_a_segment(p = established) {
        let v = p.recv(Seg { seq: 1 + MSS, len: MSS as usize, ..ACK });
        assert_eq!((v, p.dropped()), (Verdict { dup_acks: 1, ..NOTHING }, Some(DropReason::TcpOutOfOrder)));
        assert_eq!(p.numbers().2, 1);
    }
);

fact!(
    /// A super-frame stands for the segments it would have been; three mean loss, more mean nothing new.
    hole_before_a_super_frame_draws_three(p = established) {
        for (len, expected) in [(2 * MSS, 2), (3 * MSS, 3), (20 * MSS, 3), (MSS + 1, 2)] {
            let t = p.header(&Seg { seq: 2, ..ACK });
            let mut v = NOTHING;
            let _ = p.conn.on_segment(&t, &[], len as usize, MSS as usize, p.now, &mut v);
            assert_eq!(v.dup_acks, expected, "{len}");
        }
    }
);

fact!(data_after_a_hole_in_one_run_is_acknowledged_too(p = established) {
    let mut v = NOTHING;
    p.recv_into(Seg { seq: 101, len: 100, ..ACK }, &mut v);
    p.recv_into(Seg { len: 100, ..ACK }, &mut v);
    assert_eq!((v.dup_acks, v.ack, p.numbers().2), (1, true, 101));
});

fact!(fin_ahead_of_a_hole_draws_a_duplicate(p = established) {
    assert_eq!(p.recv(Seg { seq: 2, ..FIN }), Verdict { dup_acks: 1, ..NOTHING });
});

fact!(data_beyond_the_window_is_cut(p = established) {
    let len = OUR_WND as usize;
    assert!(p.recv(Seg { len: len + 1000, ..FIN }).ack);
    assert_eq!((p.taken(), p.numbers().2, p.conn.offered()), (Some((0, len)), 1 + OUR_WND, 0));
    // The FIN stood behind bytes that were not taken.
    assert!(!p.conn.guest_has_ended());
    assert_eq!(p.conn.window_field(false), 0);
});

fact!(
    /// RFC 9293 §3.8.6.1: a probe of a closed window is answered, its byte not taken.
    zero_window_probe_is_answered(p = established) {
        p.recv(Seg { len: OUR_WND as usize, ..ACK });
        assert_eq!(p.recv(Seg { seq: 1 + OUR_WND, len: 1, ..ACK }), Verdict { ack: true, ..NOTHING });
        assert_eq!(p.dropped(), Some(DropReason::TcpBeyondWindow));
        assert_eq!(p.numbers().2, 1 + OUR_WND);
    }
);

fact!(fin_needs_no_window(p = established) {
    p.recv(Seg { len: OUR_WND as usize, ..ACK });
    assert!(p.recv(Seg { seq: 1 + OUR_WND, ..FIN }).guest_fin);
});

fact!(segment_far_outside_the_window_draws_an_ack_only(p = established) {
    p.send(100);
    assert_eq!(p.recv(Seg { seq: OUR_WND + 2, ack: 101, len: 9, ..ACK }), Verdict { ack: true, ..NOTHING });
    assert_eq!((p.dropped(), p.numbers()), (Some(DropReason::TcpBeyondWindow), (1, 101, 1)));
});

fact!(
    /// RFC 9293 §3.8.4: a probe carries the byte before the next, and perhaps garbage in it.
    p24572_keep_alive_of_the_guest_is_answered(p = established) {
        assert!(p.recv(Seg { seq: 0, ..ACK }).ack);
        assert!(p.recv(Seg { seq: 0, len: 1, ..ACK }).ack);
        assert_eq!(p.numbers(), (1, 1, 1));
    }
);

fact!(
    /// RFC 9293 §3.10.7.4 and RFC 5961 §5.2; taken at its word it would shift our own numbers.
    d25_ack_of_unsent_data_is_answered_and_ignored(p = established) {
        for ack in [2, 1000, 0x8000_0001] {
            assert_eq!(p.recv(Seg { ack, len: 10, win: 9, ..ACK }), Verdict { ack: true, ..NOTHING });
            assert_eq!((p.numbers(), p.conn.room()), ((1, 1, 1), u32::from(WND)));
        }
    }
);

fact!(
    /// RFC 5961 §5.2: older than the largest window the guest ever offered.
    ack_of_long_ago_is_answered_and_ignored(p = established) {
        for _ in 0..3 {
            p.send(20_000);
            p.recv(Seg { ack: p.numbers().1, ..ACK });
        }
        assert_eq!(p.recv(Seg { len: 10, ..ACK }), Verdict { ack: true, ..NOTHING });
        assert_eq!(p.numbers(), (60_001, 60_001, 1));
    }
);

fact!(
    /// RFC 9293 §3.10.7.4: an old ACK is ignored, its window too, its data not.
    old_ack_changes_no_window(p = established) {
        p.send(2000);
        p.recv(Seg { ack: 2001, ..ACK });
        let v = p.recv(Seg { ack: 1001, len: 10, win: 5, ..ACK });
        assert_eq!((v.acked, p.taken(), p.conn.room()), (0, Some((0, 10)), u32::from(WND)));
    }
);

fact!(ack_frees_what_it_covers(p = sending) {
    assert_eq!(p.conn.in_flight(), 4 * MSS);
    let v = p.recv(Seg { ack: 1 + MSS, ..ACK });
    assert_eq!((v.acked, v.may_send, p.conn.in_flight()), (MSS, true, 3 * MSS));
    assert_eq!(p.recv(Seg { ack: 1 + 4 * MSS, ..ACK }).acked, 3 * MSS);
    assert!(!p.conn.has_timer());
});

fact!(
    /// RFC 9293 §3.8.6: the guest's window counts from the number acknowledged.
    room_is_what_the_window_leaves(p = sending) {
        assert_eq!(p.conn.room(), u32::from(WND) - 4 * MSS);
        p.recv(Seg { ack: 1 + MSS, win: 3 * MSS as u16, ..ACK });
        assert_eq!(p.conn.room(), 0);
        assert!(p.recv(Seg { ack: 1 + MSS, win: 3 * MSS as u16 + 7, ..ACK }).may_send);
        assert_eq!(p.conn.room(), 7);
    }
);

fact!(window_taken_back_leaves_no_room(p = sending) {
    p.recv(Seg { win: 10, ..ACK });
    assert_eq!((p.conn.room(), p.conn.in_flight()), (0, 4 * MSS));
});

fact!(
    /// RFC 9293 §3.10.7.4: what lies beyond the guest's window it drops, ACK and all.
    ack_stays_inside_a_window_taken_back(p = sending) {
        assert_eq!(p.rel(p.conn.bare_seq()), 1 + 4 * MSS);
        p.recv(Seg { win: 10, ..ACK });
        assert_eq!(p.rel(p.conn.bare_seq()), 11);
        p.recv(Seg { ack: 1 + MSS, win: 0, ..ACK });
        assert_eq!(p.rel(p.conn.bare_seq()), 1 + MSS);
        p.recv(Seg { ack: 1 + MSS, ..ACK });
        assert_eq!(p.rel(p.conn.bare_seq()), 1 + 4 * MSS);
    }
);

fact!(
    /// RFC 9293 §3.8.6.2.1: no small segments while an ACK is still to come.
    sender_avoids_silly_windows(p = sending) {
        p.recv(Seg { ack: 1 + MSS, win: 3 * MSS as u16 + 100, ..ACK });
        assert!(p.conn.window_is_silly());
        p.recv(Seg { ack: 1 + 4 * MSS, win: 100, ..ACK });
        assert!(!p.conn.window_is_silly());
    }
);

fact!(
    /// RFC 9293 §3.8.6.2.2: the offer grows by a segment at least, or half of all there is.
    receiver_avoids_silly_windows(p = established) {
        p.recv(Seg { len: OUR_WND as usize, ..ACK });
        for space in [0, 1, 255] {
            p.conn.offer(space);
            assert_eq!(p.conn.offered(), 0);
        }
        p.conn.offer(1000);
        assert_eq!(p.conn.offered(), 1000);
        p.conn.offer(1100);
        assert_eq!(p.conn.offered(), 1000);
        p.conn.offer(1000 + MSS);
        assert_eq!(p.conn.offered(), 1000 + MSS);
    }
);

fact!(
    /// RFC 9293 §3.8.6: a shrinking window is strongly discouraged; RFC 7323 §2.4: nor by rounding.
    right_edge_never_moves_left(p = established) {
        let mut edge = 1 + (u32::from(p.conn.window_field(false)) << 8);
        for len in [1, 1, 7, 255, 256, 300, 1460, 3, 9000] {
            p.recv(Seg { seq: p.numbers().2, len, ..ACK });
            p.conn.offer(100);
            let now = p.numbers().2 + (u32::from(p.conn.window_field(false)) << 8);
            assert!(now >= edge, "{now} < {edge}");
            edge = now;
            assert_eq!(p.numbers().2 + p.conn.offered(), edge, "what was promised is taken");
        }
    }
);

fact!(
    /// An update after a closed window, with the largest window that fits 16 bits.
    unscaled_window_update_is_worth_a_frame(p = connecting) {
        let mut p = connecting_with((p.irs.0, p.iss.0), Seg { options: TcpOptions { window_scale: None, ..SYN_OPTIONS }, ..SYN });
        p.conn.host_connected(p.now);
        p.conn.offer(1 << 20);
        p.recv(Seg { len: 65535, ..ACK });
        assert_eq!(p.conn.window_field(false), 0);
        assert!(p.conn.offer_is_worth(256 << 10, 64 << 10));
        assert!(!p.conn.offer_is_worth(0, 64 << 10));
    }
);

fact!(
    /// RFC 5961 §3.2, the three cases.
    d9_resets_are_validated(p = established) {
        for seq in [0, OUR_WND + 1, 1 << 31] {
            assert_eq!(p.recv(Seg { seq, ..RST }), NOTHING);
            assert_eq!((p.dropped(), p.state()), (Some(DropReason::TcpResetInvalid), State::Established));
        }
        for seq in [2, OUR_WND] {
            assert_eq!(p.recv(Seg { seq, ..RST }), Verdict { ack: true, ..NOTHING });
            assert_eq!(p.state(), State::Established);
        }
        assert_eq!(p.recv(RST), Verdict { reset_by_guest: true, ..NOTHING });
        assert_eq!(p.state(), State::Closed);
    }
);

fact!(reset_with_a_closed_window_is_taken(p = established) {
    p.recv(Seg { len: OUR_WND as usize, ..ACK });
    assert!(p.recv(Seg { seq: 1 + OUR_WND, ..RST }).reset_by_guest);
});
