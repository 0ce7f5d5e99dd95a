//! Which ports are in use, asked of the kernel: sock_diag(7) lists the sockets of the namespace that its netlink socket
//! was made in. Closer to the truth than /proc/net/tcp, which is text, omits sockets when it is read in pieces, and needs
//! a file system.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, NetlinkAddr, recvfrom, send};
use socket2::SockRef;

use crate::fwd::ports::{Bound, PortSet};
use crate::sys::sockets;

/// A sock_diag socket with room for its answers.
#[derive(Debug)]
pub struct SockDiag {
    socket: OwnedFd,
    sequence: u32,
    room: Vec<u8>,
}

impl SockDiag {
    /// For the namespace this process is in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<SockDiag> {
        SockDiag::new(sockets::diag()?.into())
    }

    /// For the namespace that `socket`, one of [`sockets::diag`], was made in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(socket: OwnedFd) -> io::Result<SockDiag> {
        SockRef::from(&socket).set_nonblocking(true)?;
        Ok(SockDiag { socket, sequence: 0, room: vec![0; DATAGRAM_BYTES] })
    }

    /// Sets `bound` to the ports in use: TCP sockets that listen, UDP sockets that no peer is set for, of both families,
    /// whatever address they are bound to. Never blocks.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` where it has no sock_diag for a protocol. `bound` is then not to be used.
    pub fn scan(&mut self, bound: &mut Bound) -> io::Result<()> {
        bound.clear();
        let mut list = || {
            for family in [libc::AF_INET, libc::AF_INET6] {
                self.list(family, libc::IPPROTO_TCP, TCP_LISTEN, &mut bound.tcp)?;
                self.list(family, libc::IPPROTO_UDP, TCP_CLOSE, &mut bound.udp)?;
            }
            Ok(())
        };
        let listed = list();
        if listed.is_err() {
            // The kernel starts no other list before this one is read to its end.
            let fd = self.socket.as_raw_fd();
            (0..DATAGRAMS_MAX).find(|_| recvfrom::<NetlinkAddr>(fd, &mut self.room).is_err());
        }
        listed
    }

    fn list(&mut self, family: i32, protocol: i32, state: u8, ports: &mut PortSet) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(family as u8, protocol as u8, state, self.sequence);
        let fd = self.socket.as_fd().as_raw_fd();
        send(fd, &request, MsgFlags::MSG_DONTWAIT)?;
        // The kernel makes each part of the answer when the one before is read: there is always one until the end.
        for _ in 0..DATAGRAMS_MAX {
            let (len, from) = match recvfrom::<NetlinkAddr>(fd, &mut self.room) {
                Ok(got) => got,
                Err(nix::Error::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            // Only the kernel has port 0; other processes may write to us.
            if from.is_none_or(|a| a.pid() != 0) {
                continue;
            }
            let datagram = self.room.get(..len).unwrap_or_default();
            if let Some(end) = ports_in(datagram, self.sequence, state, ports) {
                return end;
            }
        }
        Err(io::Error::other("the list of sockets has no end"))
    }
}

/// One request for a dump: `nlmsghdr`, `inet_diag_req_v2`.
fn request(family: u8, protocol: u8, state: u8, sequence: u32) -> [u8; HEADER + REQUEST] {
    let mut m = [0; HEADER + REQUEST];
    m[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    m[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    m[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    m[8..12].copy_from_slice(&sequence.to_ne_bytes());
    m[16] = family;
    m[17] = protocol;
    m[20..24].copy_from_slice(&(1u32 << state).to_ne_bytes());
    m
}

/// Takes the ports from one datagram. `Some`: the list ends with it.
#[doc(hidden)]
pub fn ports_in(mut datagram: &[u8], sequence: u32, state: u8, ports: &mut PortSet) -> Option<io::Result<()>> {
    while let Some(header) = datagram.first_chunk::<HEADER>() {
        let [l0, l1, l2, l3, t0, t1, _, _, s0, s1, s2, s3, ..] = *header;
        let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = datagram.get(HEADER..len)?;
        if u32::from_ne_bytes([s0, s1, s2, s3]) == sequence {
            match i32::from(u16::from_ne_bytes([t0, t1])) {
                libc::NLMSG_DONE => return Some(answer(body)),
                libc::NLMSG_ERROR => return Some(answer(body).and(Err(io::ErrorKind::InvalidData.into()))),
                // inet_diag_msg: family, state, timer, retransmissions, source port in network order.
                t if t == i32::from(SOCK_DIAG_BY_FAMILY) => {
                    if let [_, s, _, _, high, low, ..] = *body
                        && s == state
                    {
                        ports.insert(u16::from_be_bytes([high, low]));
                    }
                }
                _ => {}
            }
        }
        datagram = datagram.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// Both ends of a list begin with an error number, negative or 0.
fn answer(body: &[u8]) -> io::Result<()> {
    match body.first_chunk::<4>().map(|n| i32::from_ne_bytes(*n)) {
        Some(n) if n < 0 => Err(io::Error::from_raw_os_error(n.saturating_neg())),
        _ => Ok(()),
    }
}

/// The kernel makes no datagram of a dump larger than this.
const DATAGRAM_BYTES: usize = 32 * 1024;
/// More than 2^20 sockets are not listed to the end: some 250 a datagram.
const DATAGRAMS_MAX: usize = 4096;
const HEADER: usize = 16;
const REQUEST: usize = 56;
/// linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// States of net/tcp_states.h; UDP uses the second for sockets without a peer.
const TCP_LISTEN: u8 = 10;
const TCP_CLOSE: u8 = 7;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn sees_who_listens_and_who_is_bound() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::1]:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let port = |a: io::Result<std::net::SocketAddr>| a.unwrap().port();
        let mut diag = SockDiag::open().unwrap();
        let mut bound = Bound::default();
        diag.scan(&mut bound).unwrap();
        assert!(bound.tcp.contains(port(tcp.local_addr())) && bound.tcp.contains(port(tcp6.local_addr())));
        assert!(bound.udp.contains(port(udp.local_addr())));
        assert!(!bound.udp.contains(port(connected.local_addr())));
        let gone = port(tcp.local_addr());
        drop(tcp);
        diag.scan(&mut bound).unwrap();
        assert!(!bound.tcp.contains(gone));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(0u8.., 0..200), len in 0u32..80, kind in 0u16..24) {
            let mut ports = PortSet::default();
            let _ = ports_in(&bytes, 0, TCP_LISTEN, &mut ports);
            let mut framed = len.to_ne_bytes().to_vec();
            framed.extend(kind.to_ne_bytes());
            framed.extend([0; 10]);
            framed.extend(&bytes);
            let _ = ports_in(&framed, 0, TCP_LISTEN, &mut ports);
            proptest::prop_assert!(ports.within(0, u16::MAX).count() <= framed.len() / HEADER);
        }
    }
}
