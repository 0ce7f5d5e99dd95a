//! Closing: RFC 9293 §3.6, §3.10.7.4; RFC 6191.

use super::*;

fact!(guest_closes_first(p = established) {
    assert_eq!(p.recv(FIN), Verdict { ack: true, guest_fin: true, ..NOTHING });
    assert_eq!((p.state(), p.numbers()), (State::Established, (1, 1, 2)));
    // CLOSE-WAIT: our direction goes on.
    p.send(100);
    assert_eq!(p.recv(Seg { seq: 2, ack: 101, ..ACK }).acked, 100);
    // LAST-ACK.
    p.send_fin();
    p.recv(Seg { seq: 2, ack: 102, ..ACK });
    assert_eq!(p.state(), State::Closed);
});

fact!(host_closes_first(p = established) {
    p.send_fin();
    assert_eq!(p.numbers(), (1, 2, 1));
    let v = p.recv(Seg { ack: 2, ..ACK });
    assert_eq!((v.acked, p.state(), p.conn.has_timer()), (0, State::Established, false));
    // FIN-WAIT-2: the guest's direction goes on.
    p.recv(Seg { ack: 2, len: 100, ..ACK });
    assert_eq!(p.taken(), Some((0, 100)));
    let v = p.recv(Seg { seq: 101, ack: 2, ..FIN });
    assert_eq!((v.ack, v.guest_fin, p.state()), (true, true, State::TimeWait));
});

fact!(fin_that_acknowledges_ours(p = established) {
    p.send_fin();
    assert!(p.recv(Seg { ack: 2, ..FIN }).guest_fin);
    assert_eq!(p.state(), State::TimeWait);
});

fact!(
    /// RFC 9293 §3.6, figure 13: CLOSING.
    simultaneous_close(p = established) {
        p.send_fin();
        assert!(p.recv(FIN).guest_fin);
        assert_eq!(p.state(), State::Established);
        p.recv(Seg { seq: 2, ack: 2, ..ACK });
        assert_eq!(p.state(), State::TimeWait);
    }
);

fact!(last_data_comes_with_the_fin(p = established) {
    assert!(p.recv(Seg { len: 10, ..FIN }).guest_fin);
    assert_eq!((p.taken(), p.numbers().2), (Some((0, 10)), 12));
});

fact!(fin_again_is_acknowledged_again_and_reported_once(p = established) {
    p.recv(FIN);
    assert_eq!(p.recv(FIN), Verdict { ack: true, ..NOTHING });
    assert_eq!(p.numbers().2, 2);
});

fact!(data_behind_the_fin_is_refused(p = established) {
    p.recv(FIN);
    assert_eq!(p.recv(Seg { seq: 2, len: 10, ..ACK }), Verdict { ack: true, ..NOTHING });
    assert_eq!((p.dropped(), p.numbers().2), (Some(DropReason::TcpUnacceptable), 2));
});

fact!(fin_again_in_time_wait_is_acknowledged(p = established) {
    p.send_fin();
    p.recv(Seg { ack: 2, ..FIN });
    assert!(p.recv(Seg { ack: 2, ..FIN }).ack);
    assert_eq!(p.state(), State::TimeWait);
});

fact!(time_wait_ends(p = established) {
    p.send_fin();
    p.recv(Seg { ack: 2, ..FIN });
    let (v, took) = p.timer();
    assert_eq!((v, took, p.state()), (NOTHING, 2000, State::Closed));
});

fact!(time_wait_ends_after_a_window_that_opened_late(p = established) {
    p.send_fin();
    p.recv(Seg { win: 0, ..FIN });
    p.recv(Seg { seq: 2, ack: 2, ..ACK });
    assert_eq!((p.state(), p.timer().1), (State::TimeWait, 2000));
});

fact!(
    /// RFC 9293 §3.6.1 and RFC 6191: a SYN beyond the old connection's end may take its place.
    new_syn_replaces_time_wait(p = established) {
        let at = |p: &Peer, n: u32| p.conn.may_be_replaced_by(&p.header(&Seg { seq: n, ..SYN }));
        assert!(!at(&p, 1000));
        p.send_fin();
        p.recv(Seg { ack: 2, ..FIN });
        assert!(at(&p, 3) && at(&p, 1000));
        assert!(!at(&p, 2) && !at(&p, 0));
        assert_eq!(p.recv(Seg { seq: 0, ..SYN }), Verdict { ack: true, ..NOTHING });
    }
);

fact!(fin_waits_for_the_window(p = established) {
    p.recv(Seg { win: 0, ..ACK });
    p.conn.host_ended();
    assert!(!p.conn.fin_due());
    p.conn.wait_for_window(p.now);
    assert_eq!(p.timer().0, Verdict { ack: true, ..NOTHING });
    assert!(p.recv(ACK).may_send);
    assert!(p.conn.fin_due());
});

fact!(fin_waits_for_a_repair(p = sending) {
    p.timer();
    p.conn.host_ended();
    assert!(!p.conn.fin_due());
    p.recv(Seg { ack: 1 + 4 * MSS, ..ACK });
    assert!(p.conn.fin_due());
});

fact!(closed_is_silent(p = established) {
    p.recv(RST);
    assert_eq!(p.recv(Seg { len: 5, ..ACK }), NOTHING);
    assert_eq!(p.dropped(), Some(DropReason::NoFlow));
});

fact!(reset_in_each_closing_state(p = established) {
    let isn = (p.irs.0, p.iss.0);
    p.recv(FIN);
    assert!(p.recv(Seg { seq: 2, ..RST }).reset_by_guest);
    let mut p = established(isn);
    p.send_fin();
    assert!(p.recv(RST).reset_by_guest);
    let mut p = established(isn);
    p.send_fin();
    p.recv(Seg { ack: 2, ..FIN });
    assert!(p.recv(Seg { seq: 2, ..RST }).reset_by_guest);
});
