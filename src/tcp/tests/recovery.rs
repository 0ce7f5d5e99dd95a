//! Loss, timers, probes: RFC 6298, RFC 5681 §3.2, RFC 6582, RFC 9293 §3.8.

use super::*;

fact!(
    /// RFC 5681 §3.2: the third duplicate, not the first; the hole, not the flight; once.
    d8_three_duplicates_resend_the_hole_once(p = sending) {
        assert_eq!(p.recv(ACK), NOTHING);
        assert_eq!(p.recv(ACK), NOTHING);
        assert_eq!(p.recv(ACK), Verdict { resend: true, ..NOTHING });
        assert_eq!(p.resend(), (1, MSS));
        for _ in 0..20 {
            assert_eq!(p.recv(ACK), NOTHING);
        }
    }
);

fact!(
    /// RFC 5681 §2: what makes an ACK a duplicate.
    not_every_equal_ack_is_a_duplicate(p = sending) {
        for n in 0..6 {
            assert!(!p.recv(Seg { seq: 1 + n, len: 1, ..ACK }).resend);
        }
        for n in 0..6 {
            assert!(!p.recv(Seg { seq: 7, win: WND + 1 + n, ..ACK }).resend);
        }
    }
);

#[test]
fn a_hole_is_resent_also_after_more_than_there_are_numbers_for() {
    let mut p = established((1000, 70_000));
    let each = u32::from(WND) / MSS * MSS;
    for n in 0..=(3u32 << 30) / each {
        p.send(each);
        p.recv(Seg { ack: 1 + (n + 1) * each, ..ACK });
    }
    let from = 1 + ((3u32 << 30) / each + 1) * each;
    p.send(4 * MSS);
    for _ in 0..3 {
        p.recv(Seg { ack: from, ..ACK });
    }
    assert_eq!(p.resend(), (from, MSS));
}

fact!(duplicates_with_nothing_under_way_mean_nothing(p = established) {
    for _ in 0..6 {
        assert_eq!(p.recv(ACK), NOTHING);
    }
});

fact!(duplicates_across_runs_and_within_one_count_the_same(p = sending) {
    let mut v = NOTHING;
    for _ in 0..3 {
        p.recv_into(ACK, &mut v);
    }
    assert!(v.resend);
});

fact!(
    /// RFC 6582 §3.2, step 3: a partial ACK names the next hole.
    partial_ack_resends_the_next_hole(p = sending) {
        for _ in 0..3 {
            p.recv(ACK);
        }
        assert_eq!(p.resend(), (1, MSS));
        assert!(p.recv(Seg { ack: 1 + 2 * MSS, ..ACK }).resend);
        assert_eq!(p.resend(), (1 + 2 * MSS, MSS));
        let v = p.recv(Seg { ack: 1 + 4 * MSS, ..ACK });
        assert_eq!((v.resend, v.acked), (false, 2 * MSS));
    }
);

fact!(
    /// RFC 6298 §5.5: doubled each time; §2: from one second without a sample.
    timeout_backs_off(p = sending) {
        p.conn = established((p.irs.0, p.iss.0)).conn;
        p.wait(1);
        p.send(4 * MSS);
        for wait in [200, 400, 800, 1600] {
            let (v, took) = p.timer();
            assert_eq!((v, p.resend()), (Verdict { resend: true, ..NOTHING }, (1, MSS)));
            assert!(took.abs_diff(wait) <= 1, "{took} {wait}");
            assert_eq!(p.numbers(), (1, 1 + 4 * MSS, 1));
        }
    }
);

fact!(silent_guest_is_given_up(p = sending) {
    for _ in 0..15 {
        assert_eq!(p.timer().0, Verdict { resend: true, ..NOTHING });
    }
    assert_eq!(p.timer().0, Verdict { abort: true, ..NOTHING });
});

fact!(progress_clears_the_tries(p = sending) {
    for _ in 0..15 {
        p.timer();
    }
    p.recv(Seg { ack: 2, ..ACK });
    assert!(!p.timer().0.abort);
});

fact!(no_new_data_while_a_timeout_is_repaired(p = sending) {
    p.timer();
    assert_eq!(p.conn.room(), 0);
    p.recv(Seg { ack: 1 + MSS, ..ACK });
    assert_eq!(p.conn.room(), 0);
    assert!(p.recv(Seg { ack: 1 + 4 * MSS, ..ACK }).may_send);
    assert_eq!(p.conn.room(), u32::from(WND));
});

fact!(
    /// RFC 5681 §3.1 (slow start), and no byte twice: acknowledging one by one must not resend the flight each time.
    timeout_resends_each_byte_once(p = established) {
        p.conn.offer(OUR_WND);
        p.send(20 * MSS);
        p.timer();
        let mut next = 1;
        let mut total = 0;
        for n in 0..20 {
            let (from, len) = p.resend();
            assert!(len == 0 || from == next, "{from} {next}");
            next += len;
            total += len;
            assert!(next > 1 + n * MSS, "nothing under way");
            p.recv(Seg { ack: 1 + (n + 1) * MSS, ..ACK });
        }
        assert_eq!(total, 20 * MSS);
    }
);

fact!(what_the_guest_kept_is_not_resent(p = sending) {
    p.timer();
    assert_eq!(p.resend(), (1, MSS));
    p.recv(Seg { ack: 1 + 3 * MSS, ..ACK });
    assert_eq!(p.resend(), (1 + 3 * MSS, MSS));
});

fact!(fin_is_resent_by_the_timer(p = established) {
    p.send_fin();
    assert!(!p.conn.resend_is_fin() || p.conn.next_hole().is_none());
    assert!(p.timer().0.resend);
    assert!(p.conn.resend_is_fin());
    assert_eq!((p.conn.next_hole(), p.conn.in_flight(), p.numbers()), (None, 0, (1, 2, 1)));
});

fact!(
    /// A storm of duplicate ACKs must not draw one of FINs.
    b125_d32_duplicates_resend_a_fin_once(p = established) {
        p.send_fin();
        let resent = (0..20).filter(|_| p.recv(ACK).resend).count();
        assert_eq!(resent, 1);
    }
);

fact!(data_before_a_fin_is_resent_first(p = sending) {
    p.send_fin();
    p.timer();
    assert!(!p.conn.resend_is_fin());
    assert_eq!(p.resend(), (1, MSS));
    assert!(p.recv(Seg { ack: 1 + 4 * MSS, ..ACK }).resend);
    assert!(p.conn.resend_is_fin());
});

fact!(
    /// RFC 9293 §3.8.6.1: probes back off and never end while nothing is under way.
    closed_window_is_probed(p = established) {
        p.recv(Seg { win: 0, ..ACK });
        assert_eq!((p.conn.room(), p.conn.has_timer()), (0, false));
        p.conn.wait_for_window(p.now);
        let mut last = 0;
        for _ in 0..20 {
            let (v, took) = p.timer();
            assert_eq!(v, Verdict { ack: true, ..NOTHING });
            assert!(took >= last && took <= 120_000, "{took}");
            last = took;
            assert_eq!(p.rel(p.conn.probe_seq()), 0);
        }
        assert_eq!(last, 120_000);
        assert!(p.recv(ACK).may_send);
    }
);

fact!(data_after_a_closed_window_has_its_own_timeout(p = established) {
    p.wait(1);
    p.recv(Seg { win: 0, ..ACK });
    p.conn.wait_for_window(p.now);
    for _ in 0..10 {
        p.timer();
    }
    p.recv(ACK);
    p.send(100);
    assert!(p.timer().1 <= 1000);
});

fact!(probe_that_is_nearly_due_is_no_timeout_for_data(p = established) {
    p.recv(Seg { win: 0, ..ACK });
    p.conn.wait_for_window(p.now);
    p.now = Instant::from_nanos(p.conn.deadline().as_nanos() - 1);
    p.recv(ACK);
    p.send(100);
    assert!(p.timer().1 >= 200);
});

fact!(
    /// A guest short of memory closes its window over data under way and drops that (Linux does).
    window_that_opens_again_resends_at_once(p = sending) {
        p.recv(Seg { win: 0, ..ACK });
        for _ in 0..20 {
            let (v, _) = p.timer();
            assert_eq!(v, Verdict { resend: true, ..NOTHING });
            assert!(!p.recv(Seg { win: 0, ..ACK }).resend);
        }
        assert!(p.recv(ACK).resend);
        assert_eq!(p.resend(), (1, MSS));
        assert!(p.timer().1 <= 1000);
    }
);

fact!(
    /// RFC 9293 §3.8.4.
    silence_is_probed_after_two_hours(p = established) {
        let (v, took) = p.timer();
        assert_eq!((v, took), (Verdict { ack: true, ..NOTHING }, 7_200_000));
        for _ in 0..8 {
            assert_eq!(p.timer(), (Verdict { ack: true, ..NOTHING }, 75_000));
        }
        assert_eq!(p.timer(), (Verdict { abort: true, ..NOTHING }, 75_000));
    }
);

fact!(answer_to_a_keep_alive_starts_over(p = established) {
    p.timer();
    p.recv(ACK);
    assert_eq!(p.timer().1, 7_200_000);
});

fact!(nothing_sent_times_nothing(p = established) {
    p.send(0);
    assert!(!p.conn.has_timer());
});
