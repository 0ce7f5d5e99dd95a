//! TCP sockets: what `std`, `socket2` and `nix` lack or do with an allocation.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::dgram::{self, zeroed_header};
use super::faults::{self, Call};
use super::iov::{Gather, Scatter};
use super::{result, sockopt, unbroken};
use crate::base::Endpoint;

/// A socket that neither waits nor outlives an execve.
///
/// # Errors
/// The kernel's.
pub fn open(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    faults::may_fail(Call::Open, -1)?;
    Socket::new(domain, kind.nonblocking().cloexec(), protocol)
}

/// # Errors
/// The kernel's, `EINPROGRESS` among them: an event tells how it ends.
pub fn connect(socket: &Socket, to: &SockAddr) -> io::Result<()> {
    faults::may_fail(Call::Connect, socket.as_raw_fd())?;
    socket.connect(to)
}

/// Connects a datagram socket that may have lost its address with the host's network: if the host has that no more, the kernel
/// chooses another; the port stays. True if it did. `has`: as [`has_address`], which many sockets need to ask but once.
pub fn renew_source(socket: &Socket, to: SocketAddr, interface: u32, has: impl FnOnce(IpAddr) -> bool) -> bool {
    let Some(own) = socket.local_addr().ok().and_then(|a| a.as_socket()) else { return false };
    let gone = !own.ip().is_unspecified() && !has(own.ip());
    gone && forget_peer(socket).and_then(|()| dgram::connect(socket, to, interface)).is_ok()
}

/// What sending fails with where the address of a connected socket is the host's no more: by the kernel's version, or its routes.
pub fn is_of_source(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::ENODEV))
}

/// True if a socket can come from this address. Link-local ones are taken to stay: they need their interface as well.
pub fn has_address(addr: IpAddr) -> bool {
    if matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local()) {
        return true;
    }
    let bound = open(Domain::for_address((addr, 0).into()), Type::DGRAM, Some(Protocol::UDP))
        .and_then(|socket| socket.bind(&SocketAddr::from((addr, 0)).into()));
    !matches!(bound, Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL))
}

/// As connect(2) says of AF_UNSPEC.
fn forget_peer(socket: &Socket) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let len = mem::size_of_val(&nobody) as libc::socklen_t;
    // SAFETY: the address lives through the call, with its length.
    result(unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, len) }).map(drop)
}

/// The next client of a listening socket, as [`open`] makes sockets.
///
/// # Errors
/// The kernel's, `WouldBlock` when nobody waits.
pub fn accept(listener: &Socket) -> io::Result<(Socket, SockAddr)> {
    faults::may_fail(Call::Accept, listener.as_raw_fd())?;
    listener.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
}

/// Sends the pieces in order, never blocking, never raising SIGPIPE. Returns how many bytes the socket took.
///
/// # Errors
/// The kernel's, `WouldBlock` when the buffer is full.
pub fn send(fd: BorrowedFd<'_>, pieces: &[Gather<'_>]) -> io::Result<usize> {
    let fd = fd.as_raw_fd();
    let pieces = faults::beginning(Call::Send, fd, pieces);
    let mut msg = zeroed_header().msg_hdr;
    msg.msg_iov = Gather::as_raw(&pieces).cast_mut();
    msg.msg_iovlen = pieces.len() as _;
    unbroken(|| {
        faults::may_fail(Call::Send, fd)?;
        // SAFETY: msg and the list live through the call; each piece is readable by Gather's contract.
        result(unsafe { libc::sendmsg(fd, &msg, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) })
    })
}

/// Copies queued bytes from the peek offset on into `room`, leaving them queued; 0 is end of stream.
///
/// # Errors
/// The kernel's, `WouldBlock` when there is nothing beyond the offset.
pub fn peek(fd: BorrowedFd<'_>, room: &mut [Scatter<'_>]) -> io::Result<usize> {
    let fd = fd.as_raw_fd();
    faults::shorten(Call::Peek, fd, room);
    let mut msg = zeroed_header().msg_hdr;
    msg.msg_iov = Scatter::as_raw(room);
    msg.msg_iovlen = room.len() as _;
    unbroken(|| {
        faults::may_fail(Call::Peek, fd)?;
        // SAFETY: msg and the list live through the call; each area is writable and ours alone by Scatter's contract.
        result(unsafe { libc::recvmsg(fd, &mut msg, libc::MSG_PEEK | libc::MSG_DONTWAIT) })
    })
}

/// Removes up to `n` bytes from the head of a TCP receive queue without copying them (tcp(7), `MSG_TRUNC`).
///
/// # Errors
/// The kernel's, `WouldBlock` when the queue is empty.
pub fn discard(fd: BorrowedFd<'_>, n: usize) -> io::Result<usize> {
    let fd = fd.as_raw_fd();
    let n = faults::some(Call::Discard, fd, n);
    unbroken(|| {
        faults::may_fail(Call::Discard, fd)?;
        // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the buffer, so null is allowed (tcp(7)).
        result(unsafe { libc::recv(fd, std::ptr::null_mut(), n, libc::MSG_TRUNC | libc::MSG_DONTWAIT) })
    })
}

/// Takes bytes of a stream; 0 is its end. Never waits, whatever the descriptor's own mode.
///
/// # Errors
/// The kernel's, `WouldBlock` when none are queued.
pub fn receive(fd: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    let fd = fd.as_raw_fd();
    let len = faults::some(Call::Receive, fd, room.len());
    unbroken(|| {
        faults::may_fail(Call::Receive, fd)?;
        // SAFETY: pointer and length describe `room` or its beginning, which is ours to write.
        result(unsafe { libc::recv(fd, room.as_mut_ptr().cast(), len, libc::MSG_DONTWAIT) })
    })
}

/// Sets where the next peek starts, in bytes after the head of the queue; peeking then moves it forward, discarding moves
/// it back (TCP: Linux 6.9 for IPv4, 6.10 for IPv6).
///
/// # Errors
/// `Unsupported` or `EOPNOTSUPP` on older kernels.
pub fn set_peek_offset(fd: BorrowedFd<'_>, offset: usize) -> io::Result<()> {
    sockopt::set(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, i32::try_from(offset).unwrap_or(i32::MAX))
}

/// Makes a later close send a RST and drop what is queued.
///
/// # Errors
/// The kernel's.
pub fn set_reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    faults::may_fail(Call::SetOption, fd.as_raw_fd())?;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the pointer and length describe one initialised linger.
    result(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as _,
        )
    })?;
    Ok(())
}

/// The socket's own end and its peer's, if it is connected.
pub fn ends(socket: &Socket) -> Option<(Endpoint, Endpoint)> {
    let (own, peer) = (socket.local_addr().ok()?.as_socket()?, socket.peer_addr().ok()?.as_socket()?);
    Some((own.into(), peer.into()))
}

/// Bytes of send buffer not in use, by the kernel's own accounting (payload and overhead).
///
/// # Errors
/// The kernel's.
pub fn send_space(fd: BorrowedFd<'_>) -> io::Result<usize> {
    // SK_MEMINFO_SNDBUF and SK_MEMINFO_WMEM_QUEUED of linux/sock_diag.h.
    faults::may_fail(Call::GetOption, fd.as_raw_fd())?;
    const SNDBUF: usize = 3;
    const WMEM_QUEUED: usize = 5;
    let mut info = [0u32; 16];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointer and length describe the array; the kernel writes at most `len` bytes.
    result(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, info.as_mut_ptr().cast(), &mut len)
    })?;
    Ok(info[SNDBUF].saturating_sub(info[WMEM_QUEUED]) as usize)
}
