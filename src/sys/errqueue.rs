//! The socket error queue (`IP_RECVERR`, `IPV6_RECVERR`): ICMP errors about what a socket sent.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::dgram::{for_each_cmsg, socket_addr, zeroed_header, zeroed_name};
use super::faults::{self, Call};
use super::{result, unbroken};

/// Longest part of the original datagram that is kept: as much as an ICMPv6 error can quote.
pub const QUOTE_MAX: usize = 1280;

/// Who made the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The local kernel; the system call that sent the datagram failed with the same error.
    Local,
    /// An ICMP or ICMPv6 message, possibly of the local kernel's own making.
    Icmp,
}

/// One error (`struct sock_extended_err`).
#[derive(Clone, Copy, Debug)]
pub struct HostError {
    pub errno: i32,
    pub origin: Origin,
    /// ICMP type and code, in the numbers of the socket's family.
    pub kind: u8,
    pub code: u8,
    /// MTU of a too-big message.
    pub info: u32,
    /// Who sent the ICMP message.
    pub offender: Option<IpAddr>,
    /// Bytes of the original payload that came back, at the start of the buffer: behind the UDP header, or from the ICMP
    /// header on for ping sockets.
    pub quoted: usize,
}

/// Takes the next error off the queue, and what came back of the payload into `quote`. `None`: the queue is empty.
///
/// # Errors
/// The kernel's, `WouldBlock` excepted.
pub fn next(fd: BorrowedFd<'_>, quote: &mut [u8; QUOTE_MAX]) -> io::Result<Option<HostError>> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = libc::iovec { iov_base: quote.as_mut_ptr().cast(), iov_len: quote.len() };
    let mut m = zeroed_header().msg_hdr;
    m.msg_iov = &raw mut iov;
    m.msg_iovlen = 1;
    m.msg_control = control.as_mut_ptr().cast();
    m.msg_controllen = mem::size_of_val(&control) as _;
    let fd = fd.as_raw_fd();
    let got = unbroken(|| {
        faults::may_fail(Call::ErrorQueue, fd)?;
        // SAFETY: the header points to one iovec over `quote` and to a control buffer on this stack, with their lengths.
        result(unsafe { libc::recvmsg(fd, &raw mut m, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) })
    });
    let n = match got {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        other => other?,
    };
    #[allow(clippy::unnecessary_cast, reason = "not usize in every libc")]
    let used = m.msg_controllen as usize;
    Ok(Some(read(&control, used, n)))
}

/// The error that the first `used` bytes of control messages tell of; `quoted`: bytes of the original that came with them.
pub fn read(control: &[u64], used: usize, quoted: usize) -> HostError {
    let mut found = None;
    for_each_cmsg(control, used, |level, kind, data| {
        if matches!((level, kind), (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)) {
            found = parse(data, quoted);
        }
    });
    // An entry of another kind (a timestamp, say) is none of ours; report it as a local one, which callers skip.
    found.unwrap_or(HostError { errno: 0, origin: Origin::Local, kind: 0, code: 0, info: 0, offender: None, quoted: 0 })
}

/// The extended error (16 bytes), the offender behind it, and other control messages that the socket asks for.
const CONTROL_WORDS: usize = 32;
const EE_LEN: usize = mem::size_of::<libc::sock_extended_err>();

fn parse(data: &[u8], quoted: usize) -> Option<HostError> {
    if data.len() < EE_LEN {
        return None;
    }
    // SAFETY: `data` has at least the length of the struct, which is plain integers.
    let ee = unsafe { data.as_ptr().cast::<libc::sock_extended_err>().read_unaligned() };
    let mut name = zeroed_name();
    let behind = &data[EE_LEN..];
    let len = behind.len().min(mem::size_of_val(&name));
    // SAFETY: `len` is within both buffers, and sockaddr_in6 is plain integers.
    unsafe { std::ptr::copy_nonoverlapping(behind.as_ptr(), (&raw mut name).cast::<u8>(), len) };
    let icmp = ee.ee_origin == libc::SO_EE_ORIGIN_ICMP || ee.ee_origin == libc::SO_EE_ORIGIN_ICMP6;
    Some(HostError {
        errno: ee.ee_errno as i32,
        origin: if icmp { Origin::Icmp } else { Origin::Local },
        kind: ee.ee_type,
        code: ee.ee_code,
        info: ee.ee_info,
        offender: socket_addr(&name).map(|a| a.ip()).filter(|a| !a.is_unspecified()),
        quoted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sockopt;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn a_closed_port_is_reported_with_the_payload() {
        for (any, level, name, kind, code) in [
            ("127.0.0.1:0", libc::IPPROTO_IP, libc::IP_RECVERR, 3, 3),
            ("[::1]:0", libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1, 4),
        ] {
            let closed = UdpSocket::bind(any).unwrap().local_addr().unwrap();
            let s = UdpSocket::bind(any).unwrap();
            sockopt::set(s.as_fd(), level, name, 1).unwrap();
            s.connect(closed).unwrap();
            s.send(b"anybody?").unwrap();
            let mut quote = [0; QUOTE_MAX];
            let e = next(s.as_fd(), &mut quote).unwrap().unwrap();
            assert_eq!((e.origin, e.kind, e.code, e.errno), (Origin::Icmp, kind, code, libc::ECONNREFUSED));
            assert_eq!((e.offender, &quote[..e.quoted]), (Some(closed.ip()), &b"anybody?"[..]));
            assert!(next(s.as_fd(), &mut quote).unwrap().is_none());
        }
    }
}
