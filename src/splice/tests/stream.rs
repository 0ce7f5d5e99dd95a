//! TCP: bytes.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use super::*;

/// Bytes that tell where in the stream they are.
fn pattern(at: usize, out: &mut [u8]) {
    for (i, b) in out.iter_mut().enumerate() {
        let n = (at + i) as u64;
        *b = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
}

fn send_all(mut to: TcpStream, bytes: usize, chunk: usize) {
    let mut buffer = vec![0; chunk];
    let mut at = 0;
    while at < bytes {
        let n = chunk.min(bytes - at);
        pattern(at, &mut buffer[..n]);
        to.write_all(&buffer[..n]).unwrap();
        at += n;
    }
    to.shutdown(Shutdown::Write).unwrap();
}

/// Reads to the end and returns how many bytes there were; all must be as sent.
fn receive_all(mut from: TcpStream) -> usize {
    let (mut got, mut expected) = (vec![0; 200_000], vec![0; 200_000]);
    let mut at = 0;
    loop {
        let n = from.read(&mut got).unwrap();
        if n == 0 {
            return at;
        }
        pattern(at, &mut expected[..n]);
        assert!(got[..n] == expected[..n], "damage within {n} bytes after {at}");
        at += n;
    }
}

/// Sends the pattern both ways at once, and checks it.
fn exchange(world: &mut World, (client, server): (TcpStream, TcpStream), bytes: usize, chunk: usize) {
    let mut threads = Vec::new();
    for stream in [client, server] {
        stream.set_nonblocking(false).unwrap();
        let writer = stream.try_clone().unwrap();
        threads.push(std::thread::spawn(move || {
            send_all(writer, bytes, chunk);
            bytes
        }));
        threads.push(std::thread::spawn(move || receive_all(stream)));
    }
    world.until(|_| threads.iter().all(|t| t.is_finished()).then_some(()));
    for thread in threads {
        assert_eq!(thread.join().unwrap(), bytes);
    }
    world.until(|w| w.splice.is_empty().then_some(()));
    assert_eq!(world.splice.streams.means().pipes.lent(), 0);
}

/// Fills a stream until nothing more goes, and returns the bytes.
fn stuff(world: &mut World, mut stream: &TcpStream) -> usize {
    let mut buffer = vec![0; 100_000];
    let (mut total, mut idle) = (0, 0);
    while idle < 4 {
        pattern(total, &mut buffer);
        match stream.write(&buffer) {
            Ok(n) => (total, idle) = (total + n, 0),
            Err(_) => idle += 1,
        }
        world.turn(Duration::from_millis(2 * idle));
    }
    world.settle();
    total
}

#[test]
fn bulk_both_ways_at_once_is_unharmed() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut world = World::at(address);
        let pair = world.pair();
        exchange(&mut world, pair, 30 << 20, 128 << 10);
    }
}

#[test]
fn small_writes_are_unharmed() {
    let mut world = World::new();
    let pair = world.pair();
    exchange(&mut world, pair, 1 << 20, 333);
}

#[test]
fn bulk_without_pipes_is_unharmed() {
    let mut world = World::new();
    world.splice.streams.means().pipes.set_limit(0);
    let pair = world.pair();
    exchange(&mut world, pair, 20 << 20, 128 << 10);
}

#[test]
fn bulk_with_nothing_to_be_kept_is_unharmed() {
    let mut world = World::new();
    world.splice.streams.means().forbid_holding();
    let pair = world.pair();
    exchange(&mut world, pair, 2 << 20, 5000);
}

/// Regression cases b207, p24219, p23517 (a full receiver stalls the transfer for good) and p23686, b94 (readable storms).
#[test]
fn b207_p24219_p23517_p23686_b94_a_full_receiver_costs_nothing_and_goes_on_when_it_reads() {
    let mut world = World::new();
    let (client, server) = world.pair();
    let sent = stuff(&mut world, &client);
    let before = world.turns;
    for _ in 0..20 {
        world.turn(Duration::from_millis(10));
    }
    assert!(world.turns <= before + 3, "{} events while nothing can move", world.turns - before);
    // The other direction is not affected.
    (&server).write_all(b"pong").unwrap();
    let mut answer = [0; 4];
    world.until(|_| (&client).read_exact(&mut answer).ok());
    server.set_nonblocking(false).unwrap();
    let reader = std::thread::spawn(move || receive_all(server));
    client.set_nonblocking(false).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    world.until(|_| reader.is_finished().then_some(()));
    assert_eq!(reader.join().unwrap(), sent);
}

#[test]
fn stalled_receivers_that_keep_all_pipes_do_not_starve_others() {
    const PIPES: usize = 6;
    let mut world = World::new();
    world.splice.streams.means().pipes.set_limit(PIPES);
    let mut stalled = Vec::new();
    while stalled.len() < 2 * PIPES {
        let (client, server) = world.pair();
        let sent = stuff(&mut world, &client);
        stalled.push((client, server, sent));
    }
    assert_eq!(world.splice.streams.means().pipes.lent(), PIPES);
    let (client, server) = world.pair();
    for stream in [&client, &server] {
        stream.set_nonblocking(false).unwrap();
    }
    let writer = std::thread::spawn(move || send_all(client, 10 << 20, 128 << 10));
    let reader = std::thread::spawn(move || receive_all(server));
    world.until(|_| reader.is_finished().then_some(()));
    assert_eq!(reader.join().unwrap(), 10 << 20);
    writer.join().unwrap();
    // Those that waited have lost nothing, with a pipe or without.
    for (client, server, sent) in stalled {
        client.shutdown(Shutdown::Write).unwrap();
        server.set_nonblocking(false).unwrap();
        let reader = std::thread::spawn(move || receive_all(server));
        world.until(|_| reader.is_finished().then_some(()));
        assert_eq!(reader.join().unwrap(), sent);
    }
}

/// A lost wake-up would leave one of them waiting for ever.
#[test]
fn many_slow_readers_that_share_few_pipes_all_get_everything() {
    const BYTES: usize = 6 << 20;
    let mut world = World::new();
    world.splice.streams.means().pipes.set_limit(3);
    let mut threads = Vec::new();
    for i in 0..10 {
        let (client, server) = world.pair();
        let (writer, mut reader) = if i % 2 == 0 { (client, server) } else { (server, client) };
        writer.set_nonblocking(false).unwrap();
        reader.set_nonblocking(false).unwrap();
        threads.push(std::thread::spawn(move || {
            send_all(writer, BYTES, 1000 << i);
            BYTES
        }));
        threads.push(std::thread::spawn(move || {
            let (mut buffer, mut expected) = (vec![0; 300_000], vec![0; 300_000]);
            let (mut at, mut room) = (0, 1);
            loop {
                room = (room * 7 + i * 1000 + 13) % buffer.len() + 1;
                let n = reader.read(&mut buffer[..room]).unwrap();
                if n == 0 {
                    return at;
                }
                pattern(at, &mut expected[..n]);
                assert!(buffer[..n] == expected[..n], "damage within {n} bytes after {at}");
                at += n;
                if room % 5 == 0 {
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
        }));
    }
    world.until(|_| threads.iter().all(|t| t.is_finished()).then_some(()));
    for thread in threads {
        assert_eq!(thread.join().unwrap(), BYTES);
    }
    world.settle();
    assert_eq!(world.splice.streams.means().pipes.lent(), 0);
}

#[test]
fn two_thousand_connections_exchange_and_hold_no_pipes() {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let count = 2000.min((limit.0 as usize).saturating_sub(200) / 4);
    let mut world = World::new();
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push(world.pair());
    }
    for (client, server) in &pairs {
        (&*client).write_all(b"ping").unwrap();
        (&*server).write_all(&[7; 20_000]).unwrap();
    }
    let mut buffer = vec![0; 20_000];
    for (client, server) in &pairs {
        world.until(|_| (&*server).read_exact(&mut buffer[..4]).ok());
        assert_eq!(&buffer[..4], b"ping");
        let mut at = 0;
        world.until(|_| {
            at += (&*client).read(&mut buffer[at..]).unwrap_or(0);
            (at == buffer.len()).then_some(())
        });
    }
    assert_eq!((world.splice.len(), world.splice.streams.means().pipes.lent()), (count, 0));
    drop(pairs);
    world.until(|w| w.splice.is_empty().then_some(()));
}

#[test]
fn what_a_client_says_before_the_target_answers_is_not_lost() {
    let mut world = World::new();
    let mut client = world.client();
    client.write_all(b"early").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut server, _) = world.until(|w| w.service.accept().ok());
    world.settle();
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"early");
}

#[test]
fn urgent_data_is_delivered_in_line_and_stalls_nothing() {
    let mut world = World::new();
    let (client, server) = world.pair();
    let bulk = vec![1; 100_000];
    client.set_nonblocking(false).unwrap();
    for _ in 0..3 {
        (&client).write_all(&bulk).unwrap();
        socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
    }
    (&client).write_all(&bulk).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 10_000];
    world.until(|_| match (&server).read(&mut buffer) {
        Ok(0) => Some(()),
        Ok(n) => {
            got.extend_from_slice(&buffer[..n]);
            None
        }
        Err(_) => None,
    });
    assert_eq!((got.len(), got.iter().filter(|b| **b == b'!').count()), (400_003, 3));
}

/// In a long burst arrivals are reported by the megabyte; the rest, after which the sender waits for an answer, is not
/// forgotten. Time goes on whenever nothing else does.
#[test]
fn a_long_burst_arrives_to_its_last_byte_without_an_end() {
    let mut world = World::new();
    let (mut client, mut server) = world.pair();
    let (piece, mut room) = (vec![7; 1 << 20], vec![0; 1 << 20]);
    let (mut sent, mut got, mut before) = (0, 0, (0, 0));
    let (mut due, mut all) = (Vec::new(), None);
    world.until(|w| {
        // The one timer there is says that arrivals are reported in large amounts.
        if all.is_none() && w.timers.next().is_some() {
            all = Some(sent + 10);
        }
        assert!(sent < 1 << 30, "the burst was not taken for a long one");
        sent += client.write(&piece[..all.map_or(piece.len(), |all| all - sent)]).unwrap_or(0);
        while let Ok(n) = server.read(&mut room) {
            assert!(n > 0 && room[..n].iter().all(|b| *b == 7));
            got += n;
        }
        if std::mem::replace(&mut before, (sent, got)) == (sent, got) {
            w.now = w.now + Duration::from_millis(1);
        }
        w.timers.expire(w.now, &mut due);
        for token in due.drain(..) {
            w.splice.on_timer(token, w.now, &mut w.timers);
        }
        (all == Some(got)).then_some(())
    });
}
