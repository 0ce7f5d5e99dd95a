//! Sockets that see the frames of a link (packet(7)), with a filter in the kernel in front of them.
//!
//! A socket is made deaf (protocol 0), gets its filter, has it locked, and is bound only then: nothing that the filter does
//! not let through has ever been queued.
//!
//! System calls: socket, setsockopt (`SO_ATTACH_FILTER`, `SO_LOCK_FILTER`, `PACKET_ADD_MEMBERSHIP`), bind; later recvmmsg,
//! sendmmsg, bind (a link that has come back).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{result, unbroken};

/// Frames that one call takes or sends at most.
pub const BATCH: usize = 32;
/// The kernel's room for frames that wait; net.core.rmem_max may allow less.
const ROOM_BYTES: i32 = 1 << 20;
/// Longest frame that is read; what is longer comes cut, with its length.
pub const ROOM: usize = 1514;

/// What a socket lets through, of frames that others have sent to us, to a group or to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ICMPv6 messages of this type, directly behind the IPv6 header.
    Icmpv6(u8),
    /// ARP packets with this operation.
    Arp(u16),
}

impl Kind {
    fn ethertype(self) -> u16 {
        match self {
            Kind::Icmpv6(_) => libc::ETH_P_IPV6 as u16,
            Kind::Arp(_) => libc::ETH_P_ARP as u16,
        }
    }

    /// Tests of bytes of the frame, all of which must hold: offset, whether two bytes are looked at, value.
    fn tests(self) -> Vec<(u32, bool, u32)> {
        let ethertype = (12, true, u32::from(self.ethertype()));
        match self {
            Kind::Icmpv6(message) => {
                vec![ethertype, (20, false, libc::IPPROTO_ICMPV6 as u32), (54, false, u32::from(message))]
            }
            Kind::Arp(operation) => vec![ethertype, (20, true, u32::from(operation))],
        }
    }
}

/// A frame that came.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// The link's index.
    pub index: u32,
    /// As much as there was room for.
    pub bytes: &'a [u8],
    /// The whole frame's length.
    pub len: usize,
}

/// A packet socket.
#[derive(Debug)]
pub struct Packets {
    fd: OwnedFd,
    kind: Kind,
}

impl Packets {
    /// One that nothing comes to yet.
    ///
    /// # Errors
    /// The kernel's: `EPERM` without CAP_NET_RAW.
    pub fn open(kind: Kind) -> io::Result<Packets> {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory is involved.
        let fd = result(unsafe { libc::socket(libc::AF_PACKET, flags, 0) })?;
        // SAFETY: the call has just returned it, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        attach(fd.as_fd(), &program(&kind.tests()))?;
        super::sockopt::set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1)?;
        // As much as a user may have, for crowds that come while this process waits for its turn.
        super::sockopt::set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, ROOM_BYTES)?;
        Ok(Packets { fd, kind })
    }

    /// Hears the link with this index from now on, or every link with index 0.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(&self, index: u32) -> io::Result<()> {
        let address = address(index, self.kind.ethertype());
        // SAFETY: pointer and length describe one initialised address.
        result(unsafe {
            libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        })?;
        Ok(())
    }

    /// Has the link take in frames to all groups, for as long as this socket is open.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join_all_groups(&self, index: u32) -> io::Result<()> {
        let wish = libc::packet_mreq {
            mr_ifindex: index as i32,
            mr_type: libc::PACKET_MR_ALLMULTI as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: pointer and length describe one initialised packet_mreq.
        result(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const wish).cast(),
                size_of_val(&wish) as libc::socklen_t,
            )
        })?;
        Ok(())
    }

    /// Takes up to [`BATCH`] frames, and returns how many there were.
    ///
    /// # Errors
    /// The kernel's: `WouldBlock` when none is queued, `ENETDOWN` once when the link has gone down.
    pub fn receive(&self, inbox: &mut Inbox) -> io::Result<usize> {
        inbox.prepare();
        let count = unbroken(|| {
            // SAFETY: `prepare` has pointed each header to a room and a name of the inbox, which live through the call.
            result(unsafe {
                libc::recvmmsg(
                    self.fd.as_raw_fd(),
                    inbox.headers.as_mut_ptr(),
                    BATCH as libc::c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_TRUNC) as _,
                    std::ptr::null_mut(),
                )
            })
        })?;
        inbox.count = count;
        Ok(count)
    }

    /// Sends frames out of the link with this index, and returns how many the kernel took of up to [`BATCH`].
    ///
    /// # Errors
    /// The kernel's for the first of them.
    pub fn send(&self, index: u32, frames: &[impl AsRef<[u8]>]) -> io::Result<usize> {
        let mut address = address(index, self.kind.ethertype());
        let mut iovs = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut headers = [super::dgram::zeroed_header(); BATCH];
        let count = frames.len().min(BATCH);
        for ((frame, iov), header) in frames.iter().zip(&mut iovs).zip(&mut headers) {
            let bytes = frame.as_ref();
            *iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            header.msg_hdr.msg_iov = iov;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut address).cast();
            header.msg_hdr.msg_namelen = size_of_val(&address) as libc::socklen_t;
        }
        unbroken(|| {
            // SAFETY: the first `count` headers point to frames, lists and an address that live through the call; the kernel
            // only reads them.
            result(unsafe {
                libc::sendmmsg(
                    self.fd.as_raw_fd(),
                    headers.as_mut_ptr(),
                    count as libc::c_uint,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
                )
            })
        })
    }
}

impl AsRawFd for Packets {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Room for a batch of frames.
pub struct Inbox {
    rooms: Vec<[u8; ROOM]>,
    names: Vec<libc::sockaddr_ll>,
    iovs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    count: usize,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox {
            rooms: vec![[0; ROOM]; BATCH],
            names: vec![address(0, 0); BATCH],
            iovs: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
            headers: vec![super::dgram::zeroed_header(); BATCH],
            count: 0,
        }
    }
}

impl Inbox {
    fn prepare(&mut self) {
        self.count = 0;
        let parts = self.rooms.iter_mut().zip(&mut self.names).zip(&mut self.iovs).zip(&mut self.headers);
        for (((room, name), iov), header) in parts {
            *iov = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: ROOM };
            header.msg_hdr.msg_iov = iov;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
    }

    /// What the last call has taken.
    pub fn frames(&self) -> impl Iterator<Item = Arrived<'_>> {
        let all = self.rooms.iter().zip(&self.names).zip(&self.headers).take(self.count);
        all.map(|((room, name), header)| {
            let len = header.msg_len as usize;
            Arrived { index: name.sll_ifindex as u32, bytes: &room[..len.min(ROOM)], len }
        })
    }
}

fn address(index: u32, ethertype: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

fn attach(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: pointer and length describe one sock_fprog, whose list lives through the call and is only read.
    result(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Classic BPF: what is for another station, or our own, is nothing to us; then the tests. A load beyond the end refuses.
fn program(tests: &[(u32, bool, u32)]) -> Vec<libc::sock_filter> {
    let line = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut lines = vec![line(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, PACKET_TYPE)];
    // What is left to jump over: two lines a test, and the line that accepts.
    let mut left = 2 * tests.len() as u8 + 1;
    lines.push(line(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, left, 0, MULTICAST));
    for (offset, two, value) in tests {
        let size = if *two { libc::BPF_H } else { libc::BPF_B };
        left -= 2;
        lines.push(line(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, *offset));
        lines.push(line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, left, *value));
    }
    lines.push(line(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
    lines.push(line(libc::BPF_RET | libc::BPF_K, 0, 0, 0));
    lines
}

/// `SKF_AD_OFF + SKF_AD_PKTTYPE` of linux/filter.h.
const PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;
/// `PACKET_MULTICAST`; `PACKET_HOST` and `PACKET_BROADCAST` are below it, others' and our own above.
const MULTICAST: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel runs it (net/core/filter.c), for the codes that we use.
    fn accepts(program: &[libc::sock_filter], packet_type: u32, frame: &[u8]) -> bool {
        let (mut at, mut a) = (0, 0u32);
        loop {
            let line = &program[at];
            at += 1;
            let byte = |i: u32| frame.get(i as usize).map(|b| u32::from(*b));
            match u32::from(line.code) {
                c if c == libc::BPF_LD | libc::BPF_B | libc::BPF_ABS && line.k == PACKET_TYPE => a = packet_type,
                c if c == libc::BPF_LD | libc::BPF_B | libc::BPF_ABS => match byte(line.k) {
                    Some(b) => a = b,
                    None => return false,
                },
                c if c == libc::BPF_LD | libc::BPF_H | libc::BPF_ABS => match (byte(line.k), byte(line.k + 1)) {
                    (Some(high), Some(low)) => a = high << 8 | low,
                    _ => return false,
                },
                c if c == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => {
                    at += usize::from(if a > line.k { line.jt } else { line.jf });
                }
                c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                    at += usize::from(if a == line.k { line.jt } else { line.jf });
                }
                c => {
                    assert_eq!(c, libc::BPF_RET | libc::BPF_K);
                    return line.k != 0;
                }
            }
        }
    }

    fn frame(ethertype: u16, bytes: &[(usize, u8)]) -> Vec<u8> {
        let mut f = vec![0; 86];
        f[12..14].copy_from_slice(&ethertype.to_be_bytes());
        bytes.iter().for_each(|(at, b)| f[*at] = *b);
        f
    }

    #[test]
    fn solicitations_pass_and_nothing_else() {
        let program = program(&Kind::Icmpv6(135).tests());
        let good = frame(0x86dd, &[(20, 58), (54, 135)]);
        for packet_type in 0..=2 {
            assert!(accepts(&program, packet_type, &good));
        }
        assert!(!accepts(&program, 3, &good), "for another station");
        assert!(!accepts(&program, 4, &good), "our own");
        assert!(!accepts(&program, 0, &good[..54]), "cut short");
        for (at, byte) in [(54, 136), (20, 17), (12, 8)] {
            let mut other = good.clone();
            other[at] = byte;
            assert!(!accepts(&program, 0, &other), "byte {at}");
        }
    }

    #[test]
    fn arp_passes_by_its_operation() {
        let program = program(&Kind::Arp(1).tests());
        assert!(accepts(&program, 1, &frame(0x0806, &[(21, 1)])));
        assert!(!accepts(&program, 1, &frame(0x0806, &[(21, 2)])));
        assert!(!accepts(&program, 1, &frame(0x0806, &[(20, 1), (21, 1)])));
        assert!(!accepts(&program, 1, &frame(0x0800, &[(21, 1)])));
    }
}
