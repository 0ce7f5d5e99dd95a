//! One thread that echoes: TCP connections and UDP datagrams on the same port, or on several.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::Result;
use mio::net::{TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::stats;

#[derive(clap::Args)]
pub struct Options {
    /// Address and port
    #[arg(long)]
    listen: SocketAddr,
    /// So many ports, counted from the given one: a client has 65,535 ports for each
    #[arg(long, default_value_t = 1)]
    ports: u16,
}

pub fn run(options: &Options) -> Result<()> {
    stats::raise_descriptor_limit()?;
    let mut poll = Poll::new()?;
    let (mut listeners, mut datagrams) = (Vec::new(), Vec::new());
    for nth in 0..options.ports {
        let mut at = options.listen;
        at.set_port(at.port() + nth);
        let listener = stats::listen(at, Some("cubic"))?;
        listener.set_nonblocking(true)?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        let mut socket = UdpSocket::bind(at)?;
        poll.registry().register(&mut listener, Token(LISTENERS + usize::from(nth)), Interest::READABLE)?;
        poll.registry().register(&mut socket, Token(DATAGRAMS + usize::from(nth)), Interest::READABLE)?;
        listeners.push(listener);
        datagrams.push(socket);
    }
    stats::wake_at_end_of_input(mio::Waker::new(poll.registry(), END)?);
    println!(r#"{{"ready":true}}"#);

    let mut connections: Slab<Connection> = Slab::new();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match event.token() {
                END => return Ok(()),
                Token(at) if at >= DATAGRAMS => echo_datagrams(&datagrams[at - DATAGRAMS]),
                Token(at) if at >= LISTENERS => accept(&listeners[at - LISTENERS], &poll, &mut connections)?,
                Token(at) => {
                    if connections.get_mut(at).is_some_and(|connection| !connection.turn()) {
                        connections.remove(at);
                    }
                }
            }
        }
    }
}

fn accept(listener: &mio::net::TcpListener, poll: &Poll, connections: &mut Slab<Connection>) -> Result<()> {
    while let Ok((mut stream, _)) = listener.accept() {
        let _ = stream.set_nodelay(true);
        let entry = connections.vacant_entry();
        poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE | Interest::WRITABLE)?;
        entry.insert(Connection { stream, held: Vec::new() });
    }
    Ok(())
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut room = [0; 65536];
    loop {
        match socket.recv_from(&mut room) {
            Ok((len, from)) => drop(socket.send_to(&room[..len], from)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // An ICMP error of an earlier answer: the next datagram is not concerned.
            Err(_) => {}
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// Read, and not taken by the socket yet.
    held: Vec<u8>,
}

impl Connection {
    /// Echoes until the socket would block. Returns whether the connection goes on.
    fn turn(&mut self) -> bool {
        let mut room = [0; 65536];
        loop {
            while !self.held.is_empty() {
                match self.stream.write(&self.held) {
                    Ok(n) => drop(self.held.drain(..n)),
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
            }
            match self.stream.read(&mut room) {
                Ok(0) => return false,
                Ok(n) => self.held.extend_from_slice(&room[..n]),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

/// Tokens below are those of connections.
const LISTENERS: usize = 1 << 24;
const DATAGRAMS: usize = LISTENERS + (1 << 16);
const END: Token = Token(usize::MAX - 3);
