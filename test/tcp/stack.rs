//! smoltcp as the guest's stack: an independent implementation of the other end, over a link that may be bad.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Wall};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{HardwareAddress, IpCidr};

use crate::world::{GUEST_MAC, GUEST4, GUEST6, HOST4, HOST6, OUR_MAC, World, pattern};

const BUFFER: usize = 256 << 10;
const PORT: u16 = 80;

/// The same numbers for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// One direction of the link: loses, doubles and delays each so many of a thousand packets.
struct Wire {
    dice: Dice,
    permille: u64,
    queue: VecDeque<Vec<u8>>,
    late: Vec<Vec<u8>>,
}

impl Wire {
    fn new(seed: u64, permille: u64) -> Wire {
        Wire { dice: Dice(seed), permille, queue: VecDeque::new(), late: Vec::new() }
    }

    fn put(&mut self, packet: Vec<u8>) {
        match self.dice.below(1000) {
            n if n < self.permille => {}
            n if n < 2 * self.permille => {
                self.queue.push_back(packet.clone());
                self.queue.push_back(packet);
            }
            n if n < 3 * self.permille => self.late.push(packet),
            _ => self.queue.push_back(packet),
        }
        if self.late.len() > 2 {
            self.queue.extend(self.late.drain(..));
        }
    }

    fn get(&mut self) -> Option<Vec<u8>> {
        self.queue.pop_front().or_else(|| self.late.pop())
    }
}

/// IP packets; the Ethernet header is put on and taken off between here and the engine.
struct Nic {
    to_guest: Wire,
    from_guest: Wire,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut Wire);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let r = f(&mut packet);
        self.0.put(packet);
        r
    }
}

impl Device for Nic {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ip;
        c.max_transmission_unit = 1500;
        c
    }

    fn receive(&mut self, _: Time) -> Option<(Rx, Tx<'_>)> {
        let packet = self.to_guest.get()?;
        Some((Rx(packet), Tx(&mut self.from_guest)))
    }

    fn transmit(&mut self, _: Time) -> Option<Tx<'_>> {
        Some(Tx(&mut self.from_guest))
    }
}

/// A guest machine on a link to the engine.
pub struct Stack {
    pub world: World,
    nic: Nic,
    iface: Interface,
    sockets: SocketSet<'static>,
    /// Turns without a frame.
    idle: u32,
}

impl Stack {
    pub fn new(permille: u64, seed: u64) -> Stack {
        let world = World::plain();
        let mut nic = Nic { to_guest: Wire::new(seed, permille), from_guest: Wire::new(seed ^ 0xabcdef, permille) };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut nic, time(&world));
        iface.update_ip_addrs(|a| {
            a.push(IpCidr::new(IpAddr::V4(GUEST4).into(), 24)).unwrap();
            a.push(IpCidr::new(IpAddr::V6(GUEST6).into(), 64)).unwrap();
        });
        Stack { world, nic, iface, sockets: SocketSet::new(Vec::new()), idle: 0 }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_tsval_generator(Some(clock_ms));
        self.sockets.add(socket)
    }

    pub fn connect(&mut self, v6: bool, port: u16) -> SocketHandle {
        let h = self.socket();
        let remote: IpAddr = if v6 { HOST6.into() } else { HOST4.into() };
        let socket = self.sockets.get_mut::<Socket>(h);
        socket.connect(self.iface.context(), (remote, port), 40_000).unwrap();
        h
    }

    pub fn listen(&mut self) -> SocketHandle {
        let h = self.socket();
        self.sockets.get_mut::<Socket>(h).listen(PORT).unwrap();
        h
    }

    pub fn get(&mut self, h: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(h)
    }

    /// One turn of guest, link and engine. If nothing moves, time does: a timer is what they wait for.
    pub fn turn(&mut self) {
        let now = time(&self.world);
        self.iface.poll(now, &mut self.nic, &mut self.sockets);
        let mut moved = false;
        while let Some(packet) = self.nic.from_guest.get() {
            moved = true;
            let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
            // Everything but TCP is for the gateway, which is not here.
            let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
            if protocol == 6 {
                self.world.guest_sends(&[[&OUR_MAC[..], &GUEST_MAC, &ethertype, &packet].concat()]);
            }
        }
        self.world.turn(0);
        for frame in self.world.link.take() {
            moved = true;
            self.nic.to_guest.put(frame[14..].to_vec());
        }
        self.idle = if moved { 0 } else { self.idle + 1 };
        if self.idle > 0 {
            self.world.turn(1);
        }
        // The host's threads have had their chance: what is waited for is a timer, so it may as well be over.
        if self.idle >= 5 {
            self.idle = 0;
            let ours = self.world.timers.next().map(|at| at.since(self.world.now()));
            let theirs = self.iface.poll_delay(now, &self.sockets).map(Into::into);
            let wait = ours.into_iter().chain(theirs).min().unwrap_or_default();
            self.world.skip(wait.min(Duration::from_secs(120)));
        }
    }
}

fn time(w: &World) -> Time {
    Time::from_micros((w.now().as_nanos() / 1000) as i64)
}

/// Two connections at once, one each way, that echo `len` bytes; content must be right and both must close.
pub fn echo(v6: bool, len: usize, permille: u64, seed: u64) {
    let loopback = if v6 { "[::1]:0" } else { "127.0.0.1:0" };
    let mut stack = Stack::new(permille, seed);

    let listener = TcpListener::bind(loopback).unwrap();
    let out = stack.connect(v6, listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || serve_echo(listener.accept().unwrap().0));

    let listener = TcpListener::bind(loopback).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inn = stack.listen();
    assert!(stack.world.client_came(listener.accept().unwrap().0, PORT));
    let data = pattern(len);
    let (writing, reading) = exchange(client, data.clone());

    let (mut sent, mut got) = (0, Vec::new());
    let mut buf = vec![0; BUFFER];
    let end = Wall::now() + Duration::from_secs(30);
    while !(over(stack.get(out)) && over(stack.get(inn)) && reading.is_finished()) {
        if Wall::now() >= end {
            for h in [out, inn] {
                let s = stack.get(h);
                eprintln!("{:?}, {} to read, {} to send", s.state(), s.recv_queue(), s.send_queue());
            }
            panic!("stuck at {sent} sent, {} received: {:?}", got.len(), stack.world.tcp);
        }
        stack.turn();
        let s = stack.get(out);
        if s.can_send() && sent < len {
            sent += s.send_slice(&data[sent..]).unwrap();
            if sent == len {
                s.close();
            }
        }
        while let Ok(n @ 1..) = s.recv_slice(&mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        send_back(stack.get(inn), &mut buf);
    }
    assert!(got == data, "what the guest got back: {} of {len} bytes", got.len());
    assert!(reading.join().unwrap() == data, "what the client got back");
    server.join().unwrap();
    writing.join().unwrap();
    for _ in 0..100 {
        stack.turn();
        stack.world.skip(Duration::from_millis(300));
    }
    assert!(stack.world.tcp.is_empty(), "flows are left: {:?}", stack.world.tcp);
}

fn over(s: &Socket<'_>) -> bool {
    matches!(s.state(), State::Closed | State::TimeWait)
}

/// A server of the host's.
fn serve_echo(mut s: TcpStream) {
    let mut buf = vec![0; 100_000];
    loop {
        match s.read(&mut buf).unwrap() {
            0 => return,
            n => s.write_all(&buf[..n]).unwrap(),
        }
    }
}

/// A client of the host's: one thread writes `data` and ends, the other reads to the end.
fn exchange(mut client: TcpStream, data: Vec<u8>) -> (JoinHandle<()>, JoinHandle<Vec<u8>>) {
    let mut writer = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        writer.write_all(&data).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        got
    });
    (writing, reading)
}

/// A server of the guest's.
fn send_back(s: &mut Socket<'_>, buf: &mut [u8]) {
    while s.can_recv() && s.can_send() {
        let n = (s.send_capacity() - s.send_queue()).min(s.recv_queue()).min(buf.len());
        let n = s.recv_slice(&mut buf[..n]).unwrap();
        assert_eq!(s.send_slice(&buf[..n]), Ok(n));
    }
    if s.state() == State::CloseWait && !s.can_recv() {
        s.close();
    }
}

/// For timestamps; smoltcp takes a function and no closure.
fn clock_ms() -> u32 {
    static START: std::sync::LazyLock<Wall> = std::sync::LazyLock::new(Wall::now);
    START.elapsed().as_millis() as u32 + 1
}
