//! What is played while calls fail: connections in both directions and datagrams, across the link or past it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::IpEndpoint;
use spelt::fwd::{Local, Proto};
use spelt::link::Link;
use spelt::sys::faults::Rule;

use crate::PATIENCE;
use crate::world::{Carrier, Guest, HOST4, Left, Nic, PORT, Running, echo_server, listener};

/// Of each connection, in each direction: more than fits into any one call.
const LINK_BYTES: usize = 150_000;
const LOCAL_BYTES: usize = 3_000_000;
/// Datagrams that each have to get an answer.
const DATAGRAMS: usize = 30;
/// Connections that may be refused before one is made.
const ATTEMPTS: usize = 60;

/// A guest behind a link: it connects out, is connected to, and sends datagrams, to a server and to nobody.
pub fn across_the_link(carrier: Carrier, rules: Vec<Rule>) -> Left {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap().port();
    echo_server(server);
    let datagrams = datagram_server();
    let (inbound, socket) = listener(Proto::Tcp);
    let (link, nic) = Nic::pair(carrier);
    let engine = Running::start(link, Local::default(), vec![(Proto::Tcp, socket, PORT)], rules);
    let mut guest = Guest::new(nic);
    let served = guest.sockets.add(buffered());
    let client = std::thread::spawn(move || exchange(inbound, LINK_BYTES));
    let mut out = Outbound::new(&mut guest, to);
    let mut asking = Asking::new(&mut guest, datagrams.port());
    let end = Instant::now() + PATIENCE;
    while !(out.is_over() && asking.is_over() && client.is_finished()) {
        assert!(!engine.is_over(), "the engine has ended");
        if Instant::now() > end {
            engine.stop();
            panic!("{} sent, {} back, {} datagrams", out.sent, out.back.len(), asking.answered);
        }
        guest.turn();
        out.turn(&mut guest);
        asking.turn(&mut guest);
        serve(guest.sockets.get_mut(served));
    }
    let left = engine.stop();
    client.join().unwrap();
    left
}

/// Clients on the host's loopback of a guest whose namespace is, for once, the same.
pub fn past_the_link(rules: Vec<Rule>) -> Left {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap().port();
    echo_server(server);
    let datagrams = datagram_server();
    let ((tcp, tcp_socket), (udp, udp_socket)) = (listener(Proto::Tcp), listener(Proto::Udp));
    let listeners = vec![(Proto::Tcp, tcp_socket, to), (Proto::Udp, udp_socket, datagrams.port())];
    let engine = Running::start(Link::None, Local { on: true, to_loopback: true }, listeners, rules);
    let clients: Vec<JoinHandle<()>> = vec![
        std::thread::spawn(move || exchange(tcp, LOCAL_BYTES)),
        std::thread::spawn(move || exchange(tcp, LOCAL_BYTES)),
        std::thread::spawn(move || exchange(tcp, 1000)),
        std::thread::spawn(move || ask(udp)),
    ];
    let end = Instant::now() + PATIENCE;
    while !clients.iter().all(JoinHandle::is_finished) {
        assert!(!engine.is_over(), "the engine has ended");
        if Instant::now() > end {
            let waiting: Vec<_> = clients.iter().map(|c| !c.is_finished()).collect();
            engine.stop();
            panic!("these wait: {waiting:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let left = engine.stop();
    clients.into_iter().for_each(|c| c.join().unwrap());
    left
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[5]).collect()
}

/// An echo over a connection of the host's; those that end before anything has come back are made again.
fn exchange(to: SocketAddr, len: usize) {
    let data = pattern(len);
    for _ in 0..ATTEMPTS {
        let mut back = Vec::new();
        match echo(to, &data, &mut back) {
            Ok(()) => return assert!(back == data, "what came back: {} of {len} bytes", back.len()),
            Err(e) => assert!(back.is_empty(), "{e} after {} bytes", back.len()),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("no connection was made");
}

fn echo(to: SocketAddr, data: &[u8], back: &mut Vec<u8>) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    let writing = {
        let data = data.to_vec();
        std::thread::spawn(move || writer.write_all(&data).and_then(|()| writer.shutdown(Shutdown::Write)))
    };
    let read = stream.read_to_end(back);
    if read.is_err() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    let written = writing.join().unwrap();
    read.map(drop).and(written)
}

/// Datagrams until each has its answer.
fn ask(to: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    for n in 0..DATAGRAMS {
        // Several sizes at once, lest they become one send.
        let wanted = [n as u8; 300];
        let answered = (0..ATTEMPTS).any(|_| {
            for len in [100, 300, 200] {
                let _ = socket.send(&wanted[..len]);
            }
            let mut room = [0; 400];
            // The last of them may be lost.
            (0..3).any(|_| socket.recv(&mut room).is_ok_and(|n| room[..n] == wanted[..n]))
        });
        assert!(answered, "no answer to datagram {n}");
    }
}

fn datagram_server() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = vec![0; 1 << 16];
        loop {
            if let Ok((n, from)) = socket.recv_from(&mut room) {
                let _ = socket.send_to(&room[..n], from);
            }
        }
    });
    at
}

fn buffered() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 64 << 10]);
    tcp::Socket::new(buffer(), buffer())
}

/// A server of the guest's, which sends back what comes, one client after the other.
fn serve(s: &mut tcp::Socket<'_>) {
    let mut room = vec![0; 64 << 10];
    if s.state() == tcp::State::Closed || s.state() == tcp::State::TimeWait {
        s.abort();
        s.listen(PORT).unwrap();
    }
    while s.can_recv() && s.can_send() {
        let n = (s.send_capacity() - s.send_queue()).min(s.recv_queue());
        let n = s.recv_slice(&mut room[..n]).unwrap();
        assert_eq!(s.send_slice(&room[..n]), Ok(n));
    }
    if s.state() == tcp::State::CloseWait && !s.can_recv() {
        s.close();
    }
}

/// A connection of the guest's to an echo.
struct Outbound {
    handle: SocketHandle,
    data: Vec<u8>,
    to: u16,
    attempts: u16,
    sent: usize,
    back: Vec<u8>,
}

impl Outbound {
    fn new(guest: &mut Guest, to: u16) -> Outbound {
        let handle = guest.sockets.add(buffered());
        Outbound { handle, data: pattern(LINK_BYTES), to, attempts: 0, sent: 0, back: Vec::new() }
    }

    fn is_over(&self) -> bool {
        self.back.len() >= self.data.len()
    }

    fn turn(&mut self, guest: &mut Guest) {
        let s = guest.sockets.get_mut::<tcp::Socket>(self.handle);
        if s.state() == tcp::State::Closed && !self.is_over() {
            assert!(self.back.is_empty(), "reset after {} bytes", self.back.len());
            assert!(usize::from(self.attempts) < ATTEMPTS, "no connection was made");
            self.attempts += 1;
            self.sent = 0;
            s.connect(guest.iface.context(), (HOST4, self.to), 40_000 + self.attempts).unwrap();
            return;
        }
        if s.can_send() && self.sent < self.data.len() {
            self.sent += s.send_slice(&self.data[self.sent..]).unwrap();
        }
        let mut room = vec![0; 64 << 10];
        while let Ok(n @ 1..) = s.recv_slice(&mut room) {
            self.back.extend_from_slice(&room[..n]);
        }
        if self.is_over() {
            assert!(self.back == self.data, "what the guest got back is something else");
            s.close();
        }
    }
}

/// Datagrams of the guest's, each repeated until its answer comes, and others to where nobody is.
struct Asking {
    handle: SocketHandle,
    to: u16,
    answered: usize,
    at: Instant,
    attempts: usize,
}

impl Asking {
    fn new(guest: &mut Guest, to: u16) -> Asking {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 16 << 10]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(5000).unwrap();
        Asking { handle: guest.sockets.add(socket), to, answered: 0, at: Instant::now(), attempts: 0 }
    }

    fn is_over(&self) -> bool {
        self.answered == DATAGRAMS
    }

    fn turn(&mut self, guest: &mut Guest) {
        let s = guest.sockets.get_mut::<udp::Socket>(self.handle);
        while let Ok((payload, _)) = s.recv() {
            if payload[0] == self.answered as u8 && !self.is_over() {
                (self.answered, self.attempts, self.at) = (self.answered + 1, 0, Instant::now());
            }
        }
        if self.is_over() || Instant::now() < self.at {
            return;
        }
        assert!(self.attempts < ATTEMPTS, "no answer to datagram {}", self.answered);
        self.attempts += 1;
        self.at = Instant::now() + Duration::from_millis(20);
        for len in [100, 300, 200] {
            let _ = s.send_slice(&vec![self.answered as u8; len], IpEndpoint::new(HOST4.into(), self.to));
        }
        // Nobody listens there.
        let _ = s.send_slice(b"anybody?", IpEndpoint::new(HOST4.into(), 1));
    }
}
