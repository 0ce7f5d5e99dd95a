//! The translator as a part of another program: a virtual machine monitor, an emulator, a test of a network stack.
//!
//! [`Translator`] is the whole engine that `spelt vm` runs (ARP, neighbour discovery, router advertisements, DHCP, DHCPv6, TCP,
//! UDP, ping, fragments), with the guest's end of the link in this process's memory. It has no thread: it works while
//! [`Translator::turn`] is called, and never blocks longer than that was told to. It stays on the thread that has made it: it
//! is not `Send`.
//!
//! ```
//! use std::net::Ipv4Addr;
//! use std::time::Duration;
//! use spelt::embed::{Settings, Subnet, Translator};
//!
//! # fn main() -> std::io::Result<()> {
//! let subnet = Subnet { guest: Ipv4Addr::new(192, 0, 2, 7), gateway: Ipv4Addr::new(192, 0, 2, 1), prefix_len: 24 };
//! let mut translator = Translator::new(&Settings { v4: Some(subnet), ..Settings::default() })?;
//!
//! // The guest asks who has the gateway's address (ARP, RFC 826). A frame goes from the destination's MAC to the end of the
//! // payload, without a checksum of its own.
//! let mut question = [0; 42];
//! question[0..6].fill(0xff);                                      // to all stations
//! question[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);           // from the guest
//! question[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
//! question[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
//! question[28..32].copy_from_slice(&[192, 0, 2, 7]);
//! question[38..42].copy_from_slice(&[192, 0, 2, 1]);
//! translator.from_guest(&question).expect("the queue is empty");
//!
//! let answer = loop {
//!     translator.turn(Some(Duration::from_secs(1)))?;
//!     let mut frames = std::iter::from_fn(|| translator.to_guest());
//!     if let Some(reply) = frames.find(|f| f[12..14] == [8, 6] && f[21] == 2) {
//!         break reply;
//!     }
//! };
//! assert_eq!(answer[22..28], Settings::default().gateway_mac);    // who has it
//! # Ok(())
//! # }
//! ```
//!
//! # In an event loop
//! [`Translator`] has a descriptor ([`AsFd`]) that is readable when there is something to do, and [`Translator::timeout`] says
//! how long at most to wait for it. Whoever has a loop of its own polls both and then calls `turn(Some(Duration::ZERO))`; after
//! [`Translator::from_guest`] the timeout is zero. After each turn, [`Translator::to_guest`] is called until it says `None`.
//!
//! # What it does to the process around it
//! It opens sockets in the network namespace of the thread that calls `turn`, with that thread's rights: TCP, UDP, and for ping
//! ICMP datagram sockets, which `net.ipv4.ping_group_range` must allow. It starts no process and no thread, changes no signal
//! and no limit, and raises no SIGPIPE. What the program `spelt` does to protect its user (namespaces, Landlock, system call
//! filter) is not part of this: frames of an untrusted guest are parsed in this process. Messages go to crate `log`.
//!
//! # Limits
//! One guest, one queue. Frames to the guest are complete (no checksum or segmentation offload) and each is copied once. A
//! virtual machine's fast way is vhost-user: [`super::Engine`] with [`crate::link::Vhost`], or the program itself.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::Events;
use socket2::Socket;

use super::{Common, Engine, Forwarding, Next, Parts, Protocols, Seat};
use crate::base::{Addr, Clock, Counters, Mac, PerFamily};
use crate::fwd::{Nat, Outbound, Proto, Side};
use crate::gateway;
use crate::guest::{L2, Neighbours};
use crate::link::{Link, Memory, Tee};
use crate::listen::{ForwardId, Listener};

/// The guest's addresses in one family, which DHCP, router advertisements and DHCPv6 tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet<A> {
    /// The guest's address. Services of the host that see the guest see the host's own address in its place.
    pub guest: A,
    /// Packets to it go to the host's loopback (127.0.0.1 or `::1`) if [`Settings::host_loopback`] says so. In the guest's
    /// subnet, and not the guest's.
    pub gateway: A,
    /// Bits of the subnet's prefix: up to 32 or 128.
    pub prefix_len: u8,
}

/// How the guest's network is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `None`: the guest has no IPv4; at least one of both is needed.
    pub v4: Option<Subnet<Ipv4Addr>>,
    /// `None`: the guest has no IPv6.
    pub v6: Option<Subnet<Ipv6Addr>>,
    /// Bytes of the longest IP packet: 68 to 65520, and 1280 at least with IPv6.
    pub mtu: u16,
    /// Of the only station that the guest sees on its link. A unicast one.
    pub gateway_mac: [u8; 6],
    /// Name servers that the guest is told; of each family the first three. They are reached as any other address is.
    pub dns: Vec<std::net::IpAddr>,
    /// Whether the gateway's address leads to what listens on the host's loopback. If not, the guest cannot reach that.
    pub host_loopback: bool,
    /// Sockets of the host that flows may have, all together: each flow has one.
    pub sockets: usize,
}

impl Default for Settings {
    /// No addresses; MTU 1500, 256 sockets, no name servers, and no way to the host's loopback.
    fn default() -> Settings {
        Settings {
            v4: None,
            v6: None,
            mtu: 1500,
            gateway_mac: [2, 0, 0, 0, 0, 1],
            dns: Vec::new(),
            host_loopback: false,
            sockets: 256,
        }
    }
}

/// A frame was not taken: as many as may wait for the next [`Translator::turn`] do (256).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of frames from the guest is full")]
pub struct QueueFull;

/// The engine, and both queues of its guest's link.
pub struct Translator {
    engine: Engine,
    events: Events,
}

impl Translator {
    /// Opens what the engine needs for itself: fewer than ten descriptors. Frames that greet the guest wait already.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if the settings contradict themselves, with a sentence; else the kernel's, when it has
    /// no descriptors or random bytes left.
    pub fn new(settings: &Settings) -> io::Result<Translator> {
        check(settings).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let mut engine = Engine::new(parts(settings, u64::from_ne_bytes(seed)), Seat::alone()?)?;
        engine.start();
        Ok(Translator { engine, events: Events::with_capacity(EVENTS) })
    }

    /// Takes a copy of a frame of the guest: Ethernet, from the destination's MAC on, without padding or frame check sequence
    /// needed, its checksums complete. What is no frame, or too long, is counted by reason in the next turn
    /// ([`Translator::counters`]).
    ///
    /// # Errors
    /// [`QueueFull`]: it was not taken; call [`Translator::turn`].
    pub fn from_guest(&mut self, frame: &[u8]) -> Result<(), QueueFull> {
        self.engine.link_has_more = true;
        self.engine.link.memory().map_or(Ok(()), |memory| memory.put(frame)).map_err(|_| QueueFull)
    }

    /// The oldest frame to the guest that waits, padded to 60 bytes at least. At most 1 MiB of them waits; then TCP waits too,
    /// and datagrams stay in the host's sockets, until some have been taken.
    pub fn to_guest(&mut self) -> Option<Vec<u8>> {
        let (frame, waited_for) = self.engine.link.memory()?.take()?;
        self.engine.link_takes |= waited_for;
        Some(frame)
    }

    /// Deals with all there is: frames of the guest, sockets of the host, timers. If there is nothing, waits for something, no
    /// longer than `wait`; `None`: as long as it takes.
    ///
    /// # Errors
    /// The kernel's, of epoll_wait(2).
    pub fn turn(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let wait = if self.engine.link_takes { Some(Duration::ZERO) } else { wait };
        self.engine.turn(&mut self.events, wait, &mut |_| Next::Continue).map(drop)
    }

    /// How long [`Translator::turn`] may be put off, if its descriptor does not become readable before. `None`: for ever.
    pub fn timeout(&self) -> Option<Duration> {
        if self.engine.link_takes { Some(Duration::ZERO) } else { self.engine.wait() }
    }

    /// Leads the clients of a listening socket of the host's to a TCP port of the guest's, from now on. The guest sees their
    /// addresses and ports; those on the host's loopback come from the gateway.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forward_tcp(&mut self, listener: TcpListener, guest_port: u16) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        self.forward(Proto::Tcp, listener.into(), port, guest_port)
    }

    /// The same for datagrams. The socket must not be connected.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forward_udp(&mut self, socket: UdpSocket, guest_port: u16) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        self.forward(Proto::Udp, socket.into(), port, guest_port)
    }

    fn forward(&mut self, proto: Proto, socket: Socket, port: u16, target_port: u16) -> io::Result<()> {
        let Some(forward) = ForwardId::from_number(1) else { return Ok(()) };
        self.engine.open(Listener { socket, proto, on: Side::Host, port, target_port, target: None, forward })
    }

    /// Frames and bytes in both directions since the start, and how many frames were dropped for which reason.
    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }
}

impl AsFd for Translator {
    /// Readable when a turn has something to do that [`Translator::timeout`] does not know of.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.engine.poll.registry().as_fd()
    }
}

/// Events of one turn: more wait for the next.
const EVENTS: usize = 256;
/// Lives of idle UDP flows: of one exchange, of more; what connection tracking of Linux has by default.
const UDP_TIMEOUTS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(120));

fn check(settings: &Settings) -> Result<(), String> {
    let Settings { v4, v6, mtu, gateway_mac, .. } = settings;
    let least = if v6.is_some() { 1280 } else { 68 };
    if v4.is_none() && v6.is_none() {
        return Err("the guest needs an address: set v4, v6 or both".into());
    }
    if !(least..=65520).contains(mtu) {
        return Err(format!("the MTU is {mtu}: give 68 to 65520, and 1280 at least with IPv6"));
    }
    if !Mac(*gateway_mac).is_unicast() {
        return Err(format!("{} is not the MAC of one station", Mac(*gateway_mac)));
    }
    let v4 = v4.map(|s| (Addr::from(s.guest), Addr::from(s.gateway), s.prefix_len, 32));
    let v6 = v6.map(|s| (Addr::from(s.guest), Addr::from(s.gateway), s.prefix_len, 128));
    v4.into_iter().chain(v6).try_for_each(|(guest, gateway, len, most)| {
        if len > most {
            return Err(format!("a prefix of {len} bits: give {most} at most"));
        }
        if let Some(addr) = [guest, gateway].iter().find(|a| !a.is_unicast() || a.is_loopback()) {
            return Err(format!("{addr} is not an address that a station can have"));
        }
        if guest == gateway || !guest.same_prefix(&gateway, len) {
            return Err(format!("the gateway {gateway} must be another address in the subnet of {guest}/{len}"));
        }
        Ok(())
    })
}

fn parts(settings: &Settings, seed: u64) -> Parts {
    let gateway = gateway_config(settings, seed);
    let assigned = PerFamily::new(gateway.assigned.v4.map(|a| a.0), gateway.assigned.v6.map(|a| a.0));
    let nat = Nat {
        gateway: gateway.gateway,
        our_link_local: gateway.our_link_local,
        map_host_loopback: if settings.host_loopback { gateway.gateway } else { PerFamily::default() },
        assigned,
        loopback_clients: true,
        ..Nat::default()
    };
    let l2 = L2 {
        our_mac: gateway.our_mac,
        guest_mac: Mac::BROADCAST,
        guest_v4: assigned.v4,
        guest_v6: assigned.v6,
        guest_link_local: None,
        neighbours: Neighbours::default(),
    };
    let common = Common {
        clock: Clock::start(),
        l2,
        nat,
        outbound: Outbound::default(),
        gateway,
        protocols: Protocols { tcp: true, udp: true, icmp: true },
        descriptors: settings.sockets,
        udp_timeouts: UDP_TIMEOUTS,
    };
    Parts {
        link: Link::Memory(Box::new(Memory::new(settings.mtu, Tee::default()))),
        common,
        listeners: Vec::new(),
        forwarding: Forwarding::nothing(),
        local: None,
        neighbours: None,
        following: None,
    }
}

fn gateway_config(settings: &Settings, seed: u64) -> gateway::Config {
    let Settings { v4, v6, .. } = settings;
    gateway::Config {
        our_mac: Mac(settings.gateway_mac),
        gateway: PerFamily::new(v4.map(|s| s.gateway.into()), v6.map(|s| s.gateway.into())),
        our_link_local: v6.map(|_| OUR_LINK_LOCAL.into()),
        assigned: PerFamily::new(
            v4.map(|s| (s.guest.into(), s.prefix_len)),
            v6.map(|s| (s.guest.into(), s.prefix_len)),
        ),
        mtu: Some(settings.mtu),
        dns: settings.dns.iter().copied().map(Addr::from).collect(),
        search: Vec::new(),
        hostname: None,
        fqdn: None,
        arp: true,
        ndp: true,
        ra: true,
        dhcp: true,
        dhcpv6: true,
        prefix_is_hosts: false,
        leases_end: false,
        dns_in_dhcp: true,
        search_in_dhcp: false,
        v4: v4.is_some(),
        v6: v6.is_some(),
        seed,
    }
}

/// The router's, under which it advertises itself.
const OUR_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

#[cfg(test)]
mod tests;
