//! The whole engine in a thread of its own, whose system calls fail as a script says; smoltcp as the guest behind its link.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use spelt::app::{Common, Engine, Forwarding, Namespace, Next, Parts, Protocols, Seat};
use spelt::base::{Addr, Clock, Kind as TokenKind, Mac, PerFamily, Token};
use spelt::fwd::{Local, Nat, Outbound, Proto, Side};
use spelt::gateway;
use spelt::guest::{Caps, L2, Neighbours};
use spelt::link::{Link, Socket, Tap, Tee};
use spelt::listen::{ForwardId, Listener};
use spelt::sys::faults::{self, Call, Fault, Rule};
use spelt::sys::unix::Kind;

const GUEST_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OUR_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const GUEST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
pub const HOST4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const MTU: u16 = 1500;
/// Where a guest listens.
pub const PORT: u16 = 80;

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// What is read and written a frame at a time is as good as a tap.
    Tap,
    Stream,
    Messages,
}

/// What was left of an engine.
pub struct Left {
    pub hits: HashMap<(Call, Fault), u64>,
    /// Time that its thread was at work.
    pub at_work: Duration,
}

/// An engine that runs.
pub struct Running {
    thread: JoinHandle<Left>,
    wake: Arc<EventFd>,
}

impl Running {
    /// `local`: ways past the link; `listeners`: of TCP and UDP, for the guest's port.
    pub fn start(link: Link, local: Local, listeners: Vec<(Proto, socket2::Socket, u16)>, rules: Vec<Rule>) -> Running {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let wake_too = Arc::clone(&wake);
        let thread = std::thread::spawn(move || {
            // The first pipe is made at the start, and may be the last; of what else is made then nothing may fail.
            if rules.iter().all(|rule| rule.call == Call::Pipe) {
                faults::follow(&rules);
            }
            let mut engine = Engine::new(parts(link, local, listeners), Seat::alone().unwrap()).unwrap();
            let token = mio::Token(Token::only(TokenKind::Quit).to_usize());
            let mut source = mio::unix::SourceFd(&wake_too.as_raw_fd());
            engine.registry().register(&mut source, token, mio::Interest::READABLE).unwrap();
            engine.start();
            if rules.iter().any(|rule| rule.call != Call::Pipe) {
                faults::follow(&rules);
            }
            let before = at_work();
            engine.run(|_| Next::Stop).expect("the link stays");
            let hits = faults::hits();
            faults::follow(&[]);
            Left { hits, at_work: at_work() - before }
        });
        Running { thread, wake }
    }

    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn stop(self) -> Left {
        self.wake.write(1).unwrap();
        self.thread.join().expect("the engine has not panicked")
    }
}

/// Of this thread, until now.
fn at_work() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn parts(link: Link, local: Local, listeners: Vec<(Proto, socket2::Socket, u16)>) -> Parts {
    let addr = |a: IpAddr| Addr::from(a);
    let gateway = gateway::Config {
        our_mac: OUR_MAC,
        gateway: PerFamily::new(Some(HOST4.into()), Some(HOST6.into())),
        our_link_local: Some(addr("fe80::1".parse().unwrap())),
        assigned: PerFamily::new(Some((GUEST4.into(), 24)), Some((GUEST6.into(), 64))),
        mtu: Some(MTU),
        dns: vec![],
        search: vec![],
        hostname: None,
        fqdn: None,
        arp: true,
        ndp: true,
        ra: true,
        dhcp: true,
        dhcpv6: true,
        prefix_is_hosts: false,
        leases_end: false,
        dns_in_dhcp: false,
        search_in_dhcp: false,
        v4: true,
        v6: true,
        seed: 7,
    };
    let l2 = L2 {
        our_mac: OUR_MAC,
        guest_mac: Mac::BROADCAST,
        guest_v4: Some(GUEST4.into()),
        guest_v6: Some(GUEST6.into()),
        guest_link_local: None,
        neighbours: Neighbours::default(),
    };
    let nat = Nat {
        gateway: gateway.gateway,
        our_link_local: gateway.our_link_local,
        map_host_loopback: gateway.gateway,
        assigned: PerFamily::new(Some(GUEST4.into()), Some(GUEST6.into())),
        ..Nat::default()
    };
    let common = Common {
        clock: Clock::start(),
        l2,
        nat,
        outbound: Outbound::default(),
        gateway,
        protocols: Protocols { tcp: true, udp: true, icmp: true },
        descriptors: 200,
        udp_timeouts: (Duration::from_secs(30), Duration::from_secs(120)),
    };
    let mut forwarding = Forwarding::nothing();
    (forwarding.host, forwarding.guest) = (Namespace::here(false, false), Namespace::here(false, false));
    let listeners = listeners.into_iter().map(|(proto, socket, target_port)| Listener {
        port: socket.local_addr().unwrap().as_socket().unwrap().port(),
        socket,
        proto,
        on: Side::Host,
        target_port,
        target: None,
        forward: ForwardId::from_number(1).unwrap(),
    });
    Parts {
        link,
        common,
        listeners: listeners.collect(),
        forwarding,
        local: Some(local),
        neighbours: None,
        following: None,
    }
}

/// A port of the host's that the engine is to listen at.
pub fn listener(proto: Proto) -> (SocketAddr, socket2::Socket) {
    let socket: socket2::Socket = match proto {
        Proto::Tcp => TcpListener::bind("127.0.0.1:0").unwrap().into(),
        Proto::Udp => UdpSocket::bind("127.0.0.1:0").unwrap().into(),
    };
    socket.set_nonblocking(true).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}

/// The guest's end of the link.
pub enum Nic {
    Frames(UnixDatagram),
    /// What came and is no frame yet, and what the socket did not take.
    Stream(UnixStream, Vec<u8>, Vec<u8>),
}

impl Nic {
    /// Both ends of a link.
    pub fn pair(carrier: Carrier) -> (Link, Nic) {
        if carrier == Carrier::Stream {
            let (ours, guest) = UnixStream::pair().unwrap();
            guest.set_nonblocking(true).unwrap();
            let link = Socket::connected(OwnedFd::from(ours), Kind::Stream, MTU, Tee::default());
            return (Link::Socket(Box::new(link)), Nic::Stream(guest, Vec::new(), Vec::new()));
        }
        let (ours, guest) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        guest.set_nonblocking(true).unwrap();
        let link = if carrier == Carrier::Messages {
            Link::Socket(Box::new(Socket::connected(OwnedFd::from(ours), Kind::Datagram, MTU, Tee::default())))
        } else {
            let caps = Caps { csum: false, tso: false, uso: false, mtu: MTU };
            Link::Tap(Box::new(Tap::new(vec![ours.into()], false, caps, Tee::default())))
        };
        (link, Nic::Frames(guest))
    }

    fn wait(&self, ms: u8) {
        let fd = match self {
            Nic::Frames(socket) => socket.as_fd(),
            Nic::Stream(socket, ..) => socket.as_fd(),
        };
        let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(ms));
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        match self {
            Nic::Frames(socket) => {
                let mut room = vec![0; 1 << 16];
                let n = socket.recv(&mut room).ok()?;
                Some(room[..n].to_vec())
            }
            Nic::Stream(socket, came, _) => {
                let mut room = [0; 4096];
                while let Ok(n @ 1..) = socket.read(&mut room) {
                    came.extend_from_slice(&room[..n]);
                }
                let len = u32::from_be_bytes(*came.first_chunk::<4>()?) as usize;
                let frame = came.get(4..4 + len)?.to_vec();
                came.drain(..4 + len);
                Some(frame)
            }
        }
    }

    fn put(&mut self, frame: &[u8]) {
        match self {
            // A full queue loses it, as a wire does.
            Nic::Frames(socket) => drop(socket.send(frame)),
            Nic::Stream(socket, _, rest) => {
                rest.extend((frame.len() as u32).to_be_bytes());
                rest.extend_from_slice(frame);
                if let Ok(n) = socket.write(rest) {
                    rest.drain(..n);
                }
            }
        }
    }
}

pub struct Rx(Vec<u8>);
pub struct Tx<'a>(&'a mut Nic);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let r = f(&mut frame);
        self.0.put(&frame);
        r
    }
}

impl Device for Nic {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ethernet;
        c.max_transmission_unit = usize::from(MTU) + 14;
        c
    }

    fn receive(&mut self, _: Time) -> Option<(Rx, Tx<'_>)> {
        let frame = self.take()?;
        Some((Rx(frame), Tx(self)))
    }

    fn transmit(&mut self, _: Time) -> Option<Tx<'_>> {
        Some(Tx(self))
    }
}

/// The guest.
pub struct Guest {
    nic: Nic,
    pub iface: Interface,
    pub sockets: SocketSet<'static>,
    began: std::time::Instant,
}

impl Guest {
    pub fn new(mut nic: Nic) -> Guest {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC.0)));
        config.random_seed = 7;
        let mut iface = Interface::new(config, &mut nic, Time::ZERO);
        iface.update_ip_addrs(|a| {
            a.push(IpCidr::new(IpAddr::V4(GUEST4).into(), 24)).unwrap();
            a.push(IpCidr::new(IpAddr::V6(GUEST6).into(), 64)).unwrap();
        });
        Guest { nic, iface, sockets: SocketSet::new(Vec::new()), began: std::time::Instant::now() }
    }

    /// Deals with what came, and waits for more if there was nothing.
    pub fn turn(&mut self) {
        let now = Time::from_micros(self.began.elapsed().as_micros() as i64);
        if self.iface.poll(now, &mut self.nic, &mut self.sockets) == smoltcp::iface::PollResult::None {
            if let Nic::Stream(socket, _, rest) = &mut self.nic
                && let Ok(n) = socket.write(rest)
            {
                rest.drain(..n);
            }
            self.nic.wait(1);
        }
    }
}

/// Of a server on the host: an echo of one client after the other, until the listener is shut down.
pub fn echo_server(listener: TcpListener) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            std::thread::spawn(move || -> io::Result<()> {
                let mut room = vec![0; 16 << 10];
                loop {
                    match client.read(&mut room)? {
                        0 => return Ok(()),
                        n => client.write_all(&room[..n])?,
                    }
                }
            });
        }
    })
}
