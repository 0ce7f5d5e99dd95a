//! TCP: half-closes, resets, refusals.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use super::*;

/// True if the stream ends with a reset, after whatever data it still has; false if with an end of stream.
fn ends_with_reset(world: &mut World, mut stream: &TcpStream) -> bool {
    let mut buffer = vec![0; 1 << 20];
    world.until(|_| match stream.read(&mut buffer) {
        Ok(0) => Some(false),
        Ok(_) => None,
        Err(e) if e.kind() == ErrorKind::WouldBlock => None,
        Err(e) => Some(e.kind() == ErrorKind::ConnectionReset),
    })
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

fn swap_if<T>(swap: bool, (a, b): (T, T)) -> (T, T) {
    if swap { (b, a) } else { (a, b) }
}

#[test]
fn half_closes_pass_in_both_orders() {
    for swap in [false, true] {
        let mut world = World::new();
        let (first, second) = swap_if(swap, world.pair());
        (&first).write_all(b"request").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        world.settle();
        let mut got = Vec::new();
        (&second).read_to_end(&mut got).unwrap();
        assert_eq!(got, b"request");
        // Nothing spins while one direction is over; a delayed ACK may come.
        let before = world.turns;
        for _ in 0..10 {
            world.turn(Duration::from_millis(10));
        }
        assert!(world.turns <= before + 2 && world.splice.len() == 1, "{} turns", world.turns - before);
        (&second).write_all(b"answer").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        world.settle();
        got.clear();
        (&first).read_to_end(&mut got).unwrap();
        assert_eq!((&got[..], world.splice.len()), (&b"answer"[..], 0));
    }
}

#[test]
fn resets_pass_both_ways_after_the_data_before_them() {
    for swap in [false, true] {
        let mut world = World::new();
        let (first, second) = swap_if(swap, world.pair());
        world.settle();
        (&first).write_all(&[5; 50_000]).unwrap();
        reset(first);
        let mut got = 0;
        let mut buffer = vec![0; 100_000];
        let error = world.until(|_| match (&second).read(&mut buffer) {
            Ok(n) => {
                assert!(n > 0, "an end where a reset was sent");
                got += n;
                None
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            Err(e) => Some(e.kind()),
        });
        assert_eq!((error, got), (ErrorKind::ConnectionReset, 50_000));
        assert!(world.splice.is_empty());
    }
}

#[test]
fn a_reset_after_an_end_is_a_reset() {
    for swap in [false, true] {
        let mut world = World::new();
        let (first, second) = swap_if(swap, world.pair());
        first.shutdown(Shutdown::Write).unwrap();
        world.settle();
        reset(first);
        world.settle();
        assert!(world.splice.is_empty());
        assert!((&second).write(b"x").and_then(|_| (&second).write(b"x")).is_err());
    }
}

#[test]
fn resets_pass_while_the_receiver_is_full_and_give_the_pipe_back() {
    for sender_resets in [false, true] {
        let mut world = World::new();
        let (client, server) = world.pair();
        let bytes = vec![0; 1 << 20];
        loop {
            let written = (&client).write(&bytes);
            let before = world.turns;
            world.settle();
            if written.is_err() && world.turns == before {
                break;
            }
        }
        assert_eq!(world.splice.streams.means().pipes.lent(), 1);
        let (resets, other) = swap_if(!sender_resets, (client, server));
        reset(resets);
        assert!(ends_with_reset(&mut world, &other));
        assert_eq!((world.splice.len(), world.splice.streams.means().pipes.lent()), (0, 0));
    }
}

#[test]
fn a_closed_receiver_resets_the_sender() {
    let mut world = World::new();
    let (client, server) = world.pair();
    drop(server);
    world.settle();
    let _ = (&client).write(b"nobody is there");
    world.settle();
    assert!(world.splice.is_empty());
    assert!((&client).write(b"x").is_err());
}

/// A server that answers before it has read all, and closes.
#[test]
fn an_answer_comes_before_the_reset_that_a_call_finds() {
    for (swap, unread) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut world = World::new();
        let (asks, answers) = swap_if(swap, world.pair());
        (&asks).write_all(&[1; 1000]).unwrap();
        world.settle();
        (&answers).read_exact(&mut vec![0; if unread { 500 } else { 1000 }]).unwrap();
        (&asks).write_all(&[2; 100_000]).unwrap();
        (&answers).write_all(b"413 too large").unwrap();
        drop(answers);
        // The side that has more to send is heard first.
        let kind = if swap { Kind::SpliceTarget } else { Kind::SpliceClient };
        let mut sockets = Namespaces { host: &mut Here, guest: &mut Here };
        let ready = Ready { readable: true, ..Ready::default() };
        world.splice.event(Token::new(kind, 0, 0), ready, &mut sockets, world.now, &mut world.timers);
        let mut got = [0; 13];
        world.until(|_| (&asks).read_exact(&mut got).ok());
        assert_eq!(&got, b"413 too large");
        assert!(ends_with_reset(&mut world, &asks));
        assert!(world.splice.is_empty());
    }
}

#[test]
fn a_refused_target_resets_the_client() {
    let mut world = World::new();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    world.target = unused.local_addr().unwrap().into();
    drop(unused);
    let client = world.client();
    client.set_nonblocking(true).unwrap();
    assert!(ends_with_reset(&mut world, &client));
    assert_eq!((world.splice.len(), world.splice.counters().dropped(DropReason::HostSend)), (0, 1));
}

#[test]
fn a_client_that_gives_up_early_leaves_nothing() {
    let mut world = World::new();
    reset(world.client());
    world.settle();
    assert!(world.splice.is_empty());
}

#[test]
fn a_full_table_refuses_newcomers_only() {
    let mut world = World::new();
    let (client, server) = world.pair();
    world.splice.set_limits(1, 0);
    let refused = world.client();
    refused.set_nonblocking(true).unwrap();
    assert!(ends_with_reset(&mut world, &refused));
    assert_eq!(world.refused, [DropReason::FlowTableFull]);
    (&client).write_all(b"still here").unwrap();
    let mut got = [0; 10];
    world.until(|_| (&server).read_exact(&mut got).ok());
    assert_eq!(&got, b"still here");
}

/// A namespace that cannot make any more sockets.
struct Exhausted;

impl crate::sys::sockets::Sockets for Exhausted {
    fn make(&mut self, _: &crate::sys::sockets::Wanted) -> std::io::Result<Socket> {
        Err(std::io::Error::from_raw_os_error(libc::EMFILE))
    }
}

#[test]
fn without_descriptors_newcomers_are_reset_and_counted() {
    let mut world = World::new();
    let client = world.client();
    let (accepted, _) = world.until(|w| w.listener.accept().ok());
    let outcome = world.splice.tcp(accepted.into(), (world.target, 0), Via::NOTHING, &mut Exhausted, world.now);
    assert_eq!(outcome, Err(DropReason::HostResources));
    client.set_nonblocking(true).unwrap();
    assert!(ends_with_reset(&mut world, &client));
    assert_eq!(world.splice.counters().dropped(DropReason::HostResources), 1);
}

#[test]
fn stale_events_hit_nobody() {
    let mut world = World::new();
    let (client, server) = world.pair();
    drop((client, server));
    world.until(|w| w.splice.is_empty().then_some(()));
    let (client, server) = world.pair();
    let stale = Ready { error: true, ..Ready::default() };
    let mut sockets = Namespaces { host: &mut Here, guest: &mut Here };
    for kind in [Kind::SpliceClient, Kind::SpliceTarget, Kind::SpliceUdpClient, Kind::SpliceListenUdp] {
        // The slot is in its second use.
        let token = Token::new(kind, 0, 0);
        world.splice.event(token, stale, &mut sockets, world.now, &mut world.timers);
    }
    (&client).write_all(b"x").unwrap();
    world.until(|_| (&server).read_exact(&mut [0]).ok());
    assert_eq!(world.splice.len(), 1);
}
