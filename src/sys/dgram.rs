//! Datagrams over libc: batches in both directions, with control messages, without allocation per call. (nix's
//! `recvmmsg` loses control messages and its `sendmsg` allocates when given any.)

mod forward;

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use arrayvec::ArrayVec;
use socket2::Socket;
use zerocopy::IntoBytes;

use super::faults::{self, Call};
use super::iov::{Gather, Scatter};
use super::{result, socket, sockopt, unbroken};

/// Largest payload of one datagram, over IPv4; IPv6 could carry 20 bytes more.
pub const PAYLOAD_MAX: usize = 65_507;
/// Datagrams one `UDP_SEGMENT` send makes at most: `UDP_MAX_SEGMENTS` of kernels before 6.9; later ones take 128.
pub const SEGMENTS_MAX: usize = 64;
/// Messages one `sendmmsg` or `recvmmsg` carries at most here.
pub const BATCH_MAX: usize = 64;

/// Room for headers in front of every payload of an [`Inbox`].
pub const HEADROOM: usize = 128;
/// One slot: headroom, payload, and an odd number of cache lines so that the slots' first lines fall into different
/// cache sets.
const STRIDE: usize = HEADROOM + 65_536 + 64 * 5;
/// Segment size, TTL, TOS and packet info: 24 + 24 + 24 + 40 bytes.
const CONTROL_WORDS: usize = 16;

type Control = [u64; CONTROL_WORDS];

/// What the kernel said about a received datagram.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta {
    /// Bytes received.
    pub len: usize,
    /// The datagram was longer than the room for it.
    pub truncated: bool,
    /// The buffer holds several datagrams of this length (the last may be shorter); 0: it holds one (`UDP_GRO`).
    pub segment: u16,
    /// TTL or hop limit, if asked for.
    pub ttl: Option<u8>,
    /// TOS or traffic class; 0 if not asked for.
    pub tos: u8,
    /// Sender, if asked for.
    pub from: Option<SocketAddr>,
    /// Local address to answer from, if packet info was asked for.
    pub local: Option<IpAddr>,
}

/// Memory and headers to receive batches into. The memory is touched only where datagrams arrive.
pub struct Inbox {
    memory: Vec<u8>,
    headers: Vec<libc::mmsghdr>,
    iovs: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_in6>,
    control: Vec<Control>,
    calls: u64,
}

// SAFETY: the raw pointers in `headers` and `iovs` are written anew before each system call and point into the other
// fields' heap memory, which moves with the value.
unsafe impl Send for Inbox {}

impl Inbox {
    /// Room for `slots` datagrams of any size.
    pub fn new(slots: usize) -> Inbox {
        let slots = slots.clamp(1, BATCH_MAX);
        Inbox {
            memory: vec![0; slots * STRIDE],
            headers: vec![zeroed_header(); slots],
            iovs: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; slots],
            names: vec![zeroed_name(); slots],
            control: vec![[0; CONTROL_WORDS]; slots],
            calls: 0,
        }
    }

    /// Times that anything was to be received.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    pub fn slots(&self) -> usize {
        self.headers.len()
    }

    /// Receives up to `want` datagrams without blocking, and returns how many. Fewer than `want` means that there are no
    /// more now. `names`: fill in [`Meta::from`].
    ///
    /// # Errors
    /// Of the first message: `WouldBlock`, or an error pending on the socket, which is cleared by this.
    pub fn receive(&mut self, fd: BorrowedFd<'_>, want: usize, names: bool) -> io::Result<usize> {
        let want = want.min(self.slots());
        for (i, slot) in self.memory.chunks_exact_mut(STRIDE).take(want).enumerate() {
            let room = &mut slot[HEADROOM..];
            self.iovs[i] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        }
        let iovs = self.iovs.as_mut_ptr();
        self.call(fd, iovs, (want, 1), names)
    }

    /// The same for `want` datagrams, each into an area of its own, all of as many pieces; [`Inbox::meta`] tells about them,
    /// [`Inbox::payload`] does not.
    ///
    /// # Panics
    /// If there are no areas, or more than slots.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    pub fn receive_into(&mut self, fd: BorrowedFd<'_>, areas: &mut [Scatter<'_>], want: usize) -> io::Result<usize> {
        let pieces = areas.len() / want;
        assert!(want <= self.slots() && pieces > 0);
        self.call(fd, Scatter::as_raw(areas), (want, pieces), false)
    }

    /// Receives up to `want` datagrams, each into `pieces` of the pieces at `iovs`.
    fn call(
        &mut self,
        fd: BorrowedFd<'_>,
        iovs: *mut libc::iovec,
        (want, pieces): (usize, usize),
        names: bool,
    ) -> io::Result<usize> {
        self.calls += 1;
        let fd = fd.as_raw_fd();
        let want = faults::some(Call::ReceiveDatagrams, fd, want);
        let control = self.control.as_mut_ptr();
        let name = self.names.as_mut_ptr();
        for (i, m) in self.headers[..want].iter_mut().enumerate() {
            // The kernel overwrites these lengths with what it used: set all of them each time.
            m.msg_hdr.msg_iov = iovs.wrapping_add(i * pieces);
            m.msg_hdr.msg_iovlen = pieces as _;
            m.msg_hdr.msg_control = control.wrapping_add(i).cast();
            m.msg_hdr.msg_controllen = mem::size_of::<Control>() as _;
            m.msg_hdr.msg_flags = 0;
            m.msg_hdr.msg_name = if names { name.wrapping_add(i).cast() } else { std::ptr::null_mut() };
            m.msg_hdr.msg_namelen = if names { mem::size_of::<libc::sockaddr_in6>() as _ } else { 0 };
        }
        unbroken(|| {
            faults::may_fail(Call::ReceiveDatagrams, fd)?;
            let list = self.headers.as_mut_ptr();
            // SAFETY: `want` headers are set up above; each points to iovecs over memory that is exclusively ours (or that
            // the caller's Scatters vouch for), to a control buffer and a name buffer of the lengths given.
            result(unsafe { libc::recvmmsg(fd, list, want as _, libc::MSG_DONTWAIT as _, std::ptr::null_mut()) })
        })
    }

    /// About the `i`-th datagram of the last call.
    pub fn meta(&self, i: usize) -> Meta {
        let m = &self.headers[i];
        let hdr = &m.msg_hdr;
        let mut meta = Meta {
            len: m.msg_len as usize,
            truncated: hdr.msg_flags & libc::MSG_TRUNC != 0,
            from: (!hdr.msg_name.is_null()).then(|| socket_addr(&self.names[i])).flatten(),
            ..Meta::default()
        };
        #[allow(clippy::unnecessary_cast, reason = "not usize in every libc")]
        let used = (hdr.msg_controllen as usize).min(mem::size_of::<Control>());
        for_each_cmsg(&self.control[i], used, |level, kind, data| match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => meta.segment = int(data) as u16,
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                meta.ttl = Some(int(data) as u8);
            }
            // One byte for IPv4, an int for IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) => meta.tos = data.first().copied().unwrap_or(0),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => meta.tos = int(data) as u8,
            // struct in_pktinfo: index, then the local address to answer from, then the header's destination.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                meta.local = v4_local(data).map(IpAddr::from);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let b: Option<[u8; 16]> = data.get(..16).and_then(|b| b.try_into().ok());
                meta.local = meta.local.or(b.map(|b| Ipv6Addr::from(b).to_canonical()));
            }
            _ => {}
        });
        meta
    }

    /// The `i`-th datagram of the last [`Inbox::receive`].
    pub fn payload(&self, i: usize) -> &[u8] {
        let at = i * STRIDE + HEADROOM;
        let len = (self.headers[i].msg_len as usize).min(STRIDE - HEADROOM);
        &self.memory[at..at + len]
    }

    /// Puts a datagram that came another way in the place of the `i`-th one.
    ///
    /// # Panics
    /// If it is longer than a datagram can be.
    pub fn fill(&mut self, i: usize, payload: &[u8]) {
        let at = i * STRIDE + HEADROOM;
        self.memory[at..at + payload.len()].copy_from_slice(payload);
        self.headers[i].msg_len = payload.len() as u32;
    }

    /// Writes `head` directly in front of bytes `from..from + len` of the `i`-th datagram and returns both as one
    /// slice. Overwrites what was there: go forward through a datagram.
    ///
    /// # Panics
    /// If `head` is longer than [`HEADROOM`] plus `from`.
    pub fn framed(&mut self, i: usize, head: &[u8], from: usize, len: usize) -> &[u8] {
        let at = i * STRIDE + HEADROOM + from;
        self.memory[at - head.len()..at].copy_from_slice(head);
        &self.memory[at - head.len()..at + len]
    }
}

/// Connects a datagram socket. IPv6 multicast is to leave through `interface`, an index, unless that is 0.
///
/// # Errors
/// The kernel's.
pub fn connect(socket: &Socket, to: SocketAddr, interface: u32) -> io::Result<()> {
    if to.is_ipv6() && to.ip().is_multicast() && interface != 0 {
        sockopt::set(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, interface as i32)?;
    }
    match socket::connect(socket, &to.into()) {
        // A broadcast address, which only the routing table knows for sure.
        Err(e) if e.raw_os_error() == Some(libc::EACCES) && to.is_ipv4() => {
            socket.set_broadcast(true)?;
            socket::connect(socket, &to.into())
        }
        other => other,
    }
}

/// Part of a buffer that goes out in one send: one datagram, or several of `segment` bytes each, the last maybe shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub at: usize,
    pub len: usize,
    pub segment: u16,
}

impl Run {
    fn is_segmented(&self) -> bool {
        self.len > usize::from(self.segment)
    }
}

/// One datagram from pieces, or several of `segment` bytes each if that is not 0 (at most [`SEGMENTS_MAX`]).
///
/// # Errors
/// The kernel's, `WouldBlock` included; also errors of earlier datagrams pending on the socket.
pub fn send(fd: BorrowedFd<'_>, pieces: &[Gather<'_>], segment: u16) -> io::Result<()> {
    let mut control = segment_control(segment);
    let mut m = zeroed_header().msg_hdr;
    m.msg_iov = Gather::as_raw(pieces).cast_mut();
    m.msg_iovlen = pieces.len() as _;
    if segment != 0 {
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = mem::size_of_val(&control) as _;
    }
    unbroken(|| {
        faults::may_fail(Call::SendDatagram, fd.as_raw_fd())?;
        // SAFETY: the header points to `pieces`, whose memory Gather vouches for, and to a control buffer on this stack; the
        // kernel only reads them.
        result(unsafe { libc::sendmsg(fd.as_raw_fd(), &m, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
    })?;
    Ok(())
}

/// Sends the runs, at most [`BATCH_MAX`] of them, and returns how many went out.
///
/// # Errors
/// Of the first run; of a later one the next call tells.
///
/// # Panics
/// If a run lies outside `bytes`.
pub fn send_runs(fd: BorrowedFd<'_>, bytes: &[u8], runs: &[Run]) -> io::Result<usize> {
    if let [one] = runs {
        let segment = if one.is_segmented() { one.segment } else { 0 };
        return send(fd, &[Gather::new(&bytes[one.at..one.at + one.len])], segment).map(|()| 1);
    }
    let fd = fd.as_raw_fd();
    let runs = &runs[..faults::some(Call::SendDatagrams, fd, runs.len().min(BATCH_MAX))];
    let mut iovs: ArrayVec<libc::iovec, BATCH_MAX> = ArrayVec::new();
    let mut controls: ArrayVec<SegmentControl, BATCH_MAX> = ArrayVec::new();
    for r in runs {
        let b = &bytes[r.at..r.at + r.len];
        iovs.push(libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() });
        controls.push(segment_control(r.segment));
    }
    let mut headers: ArrayVec<libc::mmsghdr, BATCH_MAX> = ArrayVec::new();
    let (iov, control) = (iovs.as_mut_ptr(), controls.as_mut_ptr());
    for (i, r) in runs.iter().enumerate() {
        let mut m = zeroed_header();
        m.msg_hdr.msg_iov = iov.wrapping_add(i);
        m.msg_hdr.msg_iovlen = 1;
        if r.is_segmented() {
            m.msg_hdr.msg_control = control.wrapping_add(i).cast();
            m.msg_hdr.msg_controllen = mem::size_of::<SegmentControl>() as _;
        }
        headers.push(m);
    }
    send_all(fd, &mut headers)
}

/// Sends what the headers describe, all in this process's own memory; returns how many went out.
fn send_all(fd: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    unbroken(|| {
        faults::may_fail(Call::SendDatagrams, fd)?;
        let (list, len) = (headers.as_mut_ptr(), headers.len() as _);
        // SAFETY: each header points to iovecs and perhaps a control buffer of its maker's, which has borrowed or owns what
        // they describe until this returns; the kernel writes to the headers only.
        result(unsafe { libc::sendmmsg(fd, list, len, (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _) })
    })
}

/// Calls `f` with level, type and data of each control message in the first `used` bytes.
pub(super) fn for_each_cmsg(control: &[u64], used: usize, mut f: impl FnMut(i32, i32, &[u8])) {
    let mut rest = control.as_bytes();
    rest = &rest[..rest.len().min(used)];
    while rest.len() >= CMSG_HEADER {
        // SAFETY: there are as many bytes as the header has, which is plain integers.
        let header = unsafe { rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
        #[allow(clippy::unnecessary_cast, reason = "not usize in every libc")]
        let len = (header.cmsg_len as usize).min(rest.len());
        // Not by the macros of libc: they add to a length before they look at it.
        let Some(data) = rest.get(CMSG_HEADER..len) else { return };
        f(header.cmsg_level, header.cmsg_type, data);
        rest = rest.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
}

/// `CMSG_LEN(0)`: the header is as long as the alignment asks for.
const CMSG_HEADER: usize = size_of::<libc::cmsghdr>().next_multiple_of(size_of::<usize>());

/// Of a `struct in_pktinfo`: the address to answer from. The kernel has found it for what came once packet info had been asked
/// for; for what came before, all there is is the header's destination.
fn v4_local(info: &[u8]) -> Option<Ipv4Addr> {
    let at = |n: usize| info.get(n..n + 4).map(|b| Ipv4Addr::new(b[0], b[1], b[2], b[3]));
    let header = || at(8).filter(|a| !a.is_multicast() && !a.is_broadcast());
    at(4).filter(|a| !a.is_unspecified()).or_else(header)
}

/// Reads a socket address of either family from room for the larger one.
pub(super) fn socket_addr(name: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match i32::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_in is smaller than sockaddr_in6, any bytes are valid for it, and the family says so.
            let v4 = unsafe { (&raw const *name).cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

pub(super) fn zeroed_header() -> libc::mmsghdr {
    // SAFETY: all-zero is a valid mmsghdr: null pointers and zero lengths.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

pub(super) fn zeroed_name() -> libc::sockaddr_in6 {
    // SAFETY: sockaddr_in6 is plain integers.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// A control message with a segment size: header of 16 bytes, two bytes of data, padding.
type SegmentControl = [u64; 3];

fn segment_control(segment: u16) -> SegmentControl {
    let mut control: SegmentControl = [0; 3];
    // SAFETY: 24 aligned bytes hold one cmsghdr (16 bytes) and the u16 behind it; CMSG_DATA stays within.
    unsafe {
        let c = control.as_mut_ptr().cast::<libc::cmsghdr>();
        (*c).cmsg_level = libc::SOL_UDP;
        (*c).cmsg_type = libc::UDP_SEGMENT;
        (*c).cmsg_len = libc::CMSG_LEN(mem::size_of::<u16>() as u32) as _;
        libc::CMSG_DATA(c).cast::<u16>().write_unaligned(segment);
    }
    control
}

/// An int as control messages carry it; 0 if cut short.
fn int(data: &[u8]) -> i32 {
    data.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inbox({} slots)", self.slots())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    pub fn pair() -> (UdpSocket, UdpSocket) {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        (a, b)
    }

    #[test]
    fn lengths_of_control_messages_are_not_believed() {
        let found = |len: u64, used| {
            let mut found = Vec::new();
            for_each_cmsg(&[len, 7, 8, 20, 9, 10], used, |_, _, data| found.push(data.len()));
            found
        };
        let whole = size_of::<[u64; 6]>();
        assert_eq!(found(24, whole), [8, 4]);
        assert_eq!(found(20, whole), [4, 4]);
        assert_eq!(found(24, 40), [8, 0]);
        assert_eq!(found(24, whole + 8), [8, 4]);
        // Longer than what there is, and than any number.
        assert_eq!(found(u32::MAX.into(), whole), [32]);
        assert_eq!(found(u64::MAX, whole), [32]);
        // Shorter than its header.
        assert_eq!(found(15, whole), [0usize; 0]);
    }

    #[test]
    fn control_messages_survive_a_second_batch() {
        let (a, b) = pair();
        sockopt::set(b.as_fd(), libc::IPPROTO_IP, libc::IP_RECVTTL, 1).unwrap();
        sockopt::set(b.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1).unwrap();
        a.set_ttl(33).unwrap();
        let mut inbox = Inbox::new(4);
        for round in 0..2 {
            for n in 0..3u8 {
                a.send(&[n + round; 3]).unwrap();
            }
            assert_eq!(inbox.receive(b.as_fd(), 4, true).unwrap(), 3);
            for n in 0..3u8 {
                let m = inbox.meta(usize::from(n));
                assert_eq!(inbox.payload(usize::from(n)), [n + round; 3]);
                assert_eq!((m.len, m.truncated, m.segment, m.ttl), (3, false, 0, Some(33)));
                assert_eq!((m.from, m.local), (a.local_addr().ok(), Some(Ipv4Addr::LOCALHOST.into())));
            }
        }
        assert_eq!(inbox.receive(b.as_fd(), 4, true).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_came_before_packet_info_was_asked_for_has_its_address_too() {
        let (a, b) = pair();
        a.send(b"early").unwrap();
        sockopt::set(b.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1).unwrap();
        let mut inbox = Inbox::new(1);
        assert_eq!(inbox.receive(b.as_fd(), 1, false).unwrap(), 1);
        assert_eq!(inbox.meta(0).local, Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn runs_become_datagrams_and_coalesced_buffers_tell_their_segment() {
        let (a, b) = pair();
        sockopt::set(b.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
        let bytes: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let runs = [
            Run { at: 0, len: 500, segment: 200 },
            Run { at: 500, len: 0, segment: 0 },
            Run { at: 500, len: 500, segment: 500 },
        ];
        assert_eq!(send_runs(a.as_fd(), &bytes, &runs).unwrap(), 3);
        let mut inbox = Inbox::new(8);
        assert_eq!(inbox.receive(b.as_fd(), 8, false).unwrap(), 3);
        let got: Vec<(usize, u16)> = (0..3).map(|i| (inbox.meta(i).len, inbox.meta(i).segment)).collect();
        assert_eq!(got, [(500, 200), (0, 0), (500, 0)]);
        assert_eq!((inbox.payload(0), inbox.payload(2)), (&bytes[..500], &bytes[500..]));
        assert_eq!(inbox.framed(2, b"head", 0, 3), [&b"head"[..], &bytes[500..503]].concat());
    }

    #[test]
    fn areas_are_filled_in_order() {
        let (a, b) = pair();
        a.send(b"one").unwrap();
        a.send(b"longer").unwrap();
        let (mut x, mut y) = ([0; 4], [0; 4]);
        let mut inbox = Inbox::new(4);
        let n = inbox.receive_into(b.as_fd(), &mut [Scatter::new(&mut x), Scatter::new(&mut y)], 2).unwrap();
        assert_eq!((n, &x[..3], &y[..]), (2, &b"one"[..], &b"long"[..]));
        assert_eq!((inbox.meta(0).truncated, inbox.meta(1).truncated), (false, true));
    }
}
