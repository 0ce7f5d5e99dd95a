//! Flows between real sockets over loopback, in one namespace.

mod datagram;
mod ends;
mod stream;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use socket2::{Domain, Socket, Type};

use super::{Config, Namespaces, Splice};
use crate::base::{DropReason, Endpoint, Instant, Kind, Token};
use crate::flow::{KeySecret, Pending, Ready, Via, Wheel};
use crate::sys::sockets::Here;

const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);
/// A test that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The engine, its poll, a listener whose clients are spliced, and the service they are led to.
struct World {
    poll: Poll,
    events: Events,
    splice: Splice,
    timers: Wheel,
    now: Instant,
    listener: TcpListener,
    service: TcpListener,
    target: Endpoint,
    refused: Vec<DropReason>,
    /// How often the loop has turned with an event or a pending lane.
    turns: usize,
}

impl World {
    fn new() -> World {
        World::at("127.0.0.1:0")
    }

    fn at(address: &str) -> World {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let config = Config { tcp_limit: 100_000, udp_limit: 5_000, short: SHORT, long: LONG };
        let splice = Splice::new(registry, KeySecret::fixed([1; 16]), config).unwrap();
        let listen = || {
            let address: SocketAddr = address.parse().unwrap();
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            socket.bind(&address.into()).unwrap();
            socket.listen(4096).unwrap();
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true).unwrap();
            listener
        };
        let (listener, service) = (listen(), listen());
        let token = mio::Token(Token::only(Kind::ListenTcp).to_usize());
        poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE).unwrap();
        let now = Instant::from_nanos(1_000_000_000_000);
        World {
            poll,
            events: Events::with_capacity(256),
            splice,
            timers: Wheel::new(now),
            now,
            target: service.local_addr().unwrap().into(),
            listener,
            service,
            refused: Vec::new(),
            turns: 0,
        }
    }

    /// One turn of the loop, waiting for an event that long at most.
    fn turn(&mut self, wait: Duration) {
        let wait = if self.splice.pending() == Pending::Turn { Duration::ZERO } else { wait };
        self.poll.poll(&mut self.events, Some(wait)).unwrap();
        self.turns += usize::from(!self.events.is_empty() || self.splice.pending() == Pending::Turn);
        let mut sockets = Namespaces { host: &mut Here, guest: &mut Here };
        for event in &self.events {
            let token = Token::from_usize(event.token().0).unwrap();
            if token.kind != Kind::ListenTcp {
                self.splice.event(token, Ready::from(event), &mut sockets, self.now, &mut self.timers);
                continue;
            }
            while let Ok((client, _)) = self.listener.accept() {
                client.set_nonblocking(true).unwrap();
                if let Err(reason) = self.splice.tcp(client.into(), (self.target, 0), Via::NOTHING, &mut Here, self.now)
                {
                    self.refused.push(reason);
                }
            }
        }
        self.splice.run_pending(&mut sockets, self.now, &mut self.timers);
    }

    /// Turns until `done` says something.
    fn until<T>(&mut self, mut done: impl FnMut(&mut World) -> Option<T>) -> T {
        let start = std::time::Instant::now();
        loop {
            if let Some(value) = done(self) {
                return value;
            }
            assert!(start.elapsed() < PATIENCE, "still waiting: {:?}", self.splice);
            self.turn(Duration::from_millis(5));
        }
    }

    /// Turns until nothing has happened for a while.
    fn settle(&mut self) {
        loop {
            let before = self.turns;
            self.turn(Duration::from_millis(20));
            if self.turns == before {
                return;
            }
        }
    }

    fn client(&self) -> TcpStream {
        TcpStream::connect(self.listener.local_addr().unwrap()).unwrap()
    }

    /// A client and the target's end of its connection, neither blocking.
    fn pair(&mut self) -> (TcpStream, TcpStream) {
        let client = self.client();
        let (server, _) = self.until(|w| w.service.accept().ok());
        client.set_nonblocking(true).unwrap();
        server.set_nonblocking(true).unwrap();
        (client, server)
    }
}
