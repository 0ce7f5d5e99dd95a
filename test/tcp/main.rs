//! The TCP engine against real sockets on loopback: what a guest sees on its link, what a server sees in its socket.

mod data;
mod ends;
mod flows;
mod holes;
mod moving;
mod random;
mod script;
mod stack;
mod world;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use world::{Guest, World};

const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

/// A guest connected to a server.
fn connected_to(w: &mut World, address: &str, port: u16) -> (Guest, TcpStream) {
    let listener = TcpListener::bind(address).unwrap();
    let mut g = Guest::new(port, listener.local_addr().unwrap());
    g.connect(w);
    let server = listener.accept().unwrap().0;
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (g, server)
}

fn connected(w: &mut World) -> (Guest, TcpStream) {
    connected_to(w, LOOPBACKS[0], 4000)
}

/// A client on the host whose connection waits for the guest's answer.
fn inbound(w: &mut World, address: &str) -> TcpStream {
    let listener = TcpListener::bind(address).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(w.client_came(listener.accept().unwrap().0, 80));
    client
}

#[test]
fn smoltcp_echo_both_ways_over_ipv4() {
    stack::echo(false, 5 << 20, 0, 1);
}

#[test]
fn smoltcp_echo_both_ways_over_ipv6() {
    stack::echo(true, 5 << 20, 0, 2);
}

#[test]
fn smoltcp_echo_survives_loss_reordering_and_duplication() {
    for seed in 0..3 {
        stack::echo(seed % 2 == 1, 1 << 20, 10, 77 + seed);
    }
}

fn read_all(s: &mut TcpStream) -> Vec<u8> {
    let mut out = Vec::new();
    s.read_to_end(&mut out).unwrap();
    out
}
