//! Messages with descriptors: between us and a child of ours, from hypervisors, and from those who ask for something.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

/// Two connected ends that keep message boundaries; a read on one whose peer is gone yields an empty message.
///
/// # Errors
/// The kernel's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// # Errors
/// The kernel's; `EPIPE` (no signal) when the peer is gone.
pub fn send(to: BorrowedFd<'_>, message: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    match fd {
        Some(fd) => send_many(to, message, &[fd]),
        None => send_many(to, message, &[]),
    }
}

/// As [`send`], with up to [`FDS_MAX`] descriptors.
///
/// # Errors
/// As [`send`]; `ETOOMANYREFS` when this user has more descriptors on their way than a process may have open.
pub fn send_many(to: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &control[..] };
    loop {
        match sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(message)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::Error::EINTR) => {}
            other => return Ok(other.map(|_| ())?),
        }
    }
}

/// Waits for a message of at most `room` bytes. Empty: the peer is gone.
///
/// # Errors
/// The kernel's.
pub fn recv(from: BorrowedFd<'_>, room: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut buf = vec![0; room];
    let mut fds = Vec::new();
    let len = recv_many(from, &mut buf, &mut fds)?;
    buf.truncate(len);
    Ok((buf, fds.pop()))
}

/// As [`recv`], into `room`, returning the message's length and appending its descriptors to `fds`: those that fit into
/// this process's table, the others are lost.
///
/// # Errors
/// As [`recv`].
pub fn recv_many(from: BorrowedFd<'_>, room: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    recv_with(from, room, fds, FDS_MAX, 0)
}

/// As [`recv_many`], of a stream and without waiting.
///
/// # Errors
/// As [`recv`], and `WouldBlock` when there is nothing.
pub fn recv_now(from: BorrowedFd<'_>, room: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    recv_with(from, room, fds, FDS_MAX, libc::MSG_DONTWAIT)
}

/// As [`recv_now`], for who expects one descriptor at most: others are closed.
///
/// # Errors
/// As [`recv_now`].
pub fn recv_one_now(from: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut fds = Vec::new();
    let len = recv_with(from, room, &mut fds, 1, libc::MSG_DONTWAIT)?;
    // The room for one is that for two.
    fds.truncate(1);
    Ok((len, fds.pop()))
}

/// The kernel closes what does not fit, but for what alignment has left room for.
fn recv_with(
    from: BorrowedFd<'_>,
    room: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    most: usize,
    flags: i32,
) -> io::Result<usize> {
    let mut control = ControlRoom([0; CONTROL_BYTES]);
    let mut iov = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: all zeros is a message header without any part.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut iov, 1);
    (header.msg_control, header.msg_controllen) = ((&raw mut control).cast(), control_bytes(most) as _);
    let len = loop {
        // SAFETY: the header names `room` and `control` with their lengths; both outlive the call.
        let got = unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC | flags) };
        match usize::try_from(got) {
            Ok(len) => break len,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    };
    // Not by nix: that refuses to read what was cut off (MSG_CTRUNC), which is the case when some of the descriptors
    // found no place in this process's table. The others have, and would stay open for ever.
    // SAFETY: the header is as the kernel left it, `control` still where it says.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return whole headers within `control` or null.
        let (level, kind, size) = unsafe { ((*at).cmsg_level, (*at).cmsg_type, (*at).cmsg_len as usize) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: only computes lengths and an address.
            let (head, data) = unsafe { (libc::CMSG_LEN(0) as usize, libc::CMSG_DATA(at).cast::<RawFd>()) };
            for i in 0..size.saturating_sub(head) / size_of::<RawFd>() {
                // SAFETY: the kernel has just put this descriptor there, for us and nobody else.
                fds.push(unsafe { OwnedFd::from_raw_fd(data.add(i).read_unaligned()) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
    }
    Ok(len)
}

/// Where the kernel writes control messages: aligned as their headers are.
#[repr(C, align(8))]
struct ControlRoom([u8; CONTROL_BYTES]);

const CONTROL_BYTES: usize = control_bytes(FDS_MAX);

/// For so many descriptors.
const fn control_bytes(fds: usize) -> usize {
    // SAFETY: only computes a length.
    (unsafe { libc::CMSG_SPACE((fds * size_of::<RawFd>()) as u32) }) as usize
}

/// Descriptors with one message, at most; the kernel's own limit is `SCM_MAX_FD`, 253.
pub const FDS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptor_arrives_with_its_message() {
        let (a, b) = pair().unwrap();
        let (x, y) = pair().unwrap();
        send(a.as_fd(), b"hello", Some(x.as_fd())).unwrap();
        drop(x);
        let (text, fd) = recv(b.as_fd(), 64).unwrap();
        assert_eq!(text, b"hello");
        send(fd.unwrap().as_fd(), b"back", None).unwrap();
        assert_eq!(recv(y.as_fd(), 64).unwrap().0, b"back");
        drop(a);
        assert!(recv(b.as_fd(), 64).unwrap().0.is_empty());
    }

    #[test]
    fn of_several_only_one_is_taken() {
        let (a, b) = pair().unwrap();
        let (x, y) = pair().unwrap();
        send_many(a.as_fd(), b"three", &[x.as_fd(), x.as_fd(), x.as_fd()]).unwrap();
        drop(x);
        let mut room = [0; 8];
        let (len, fd) = recv_one_now(b.as_fd(), &mut room).unwrap();
        assert_eq!(&room[..len], b"three");
        drop(fd.unwrap());
        // All others are closed as well: nobody has its other end.
        assert!(recv(y.as_fd(), 8).unwrap().0.is_empty());
        assert_eq!(recv_one_now(b.as_fd(), &mut room).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn many_descriptors_arrive_in_order() {
        let (a, b) = pair().unwrap();
        let pairs: Vec<_> = (0..FDS_MAX).map(|_| pair().unwrap()).collect();
        let theirs: Vec<_> = pairs.iter().map(|(_, y)| y.as_fd()).collect();
        send_many(a.as_fd(), b"all", &theirs).unwrap();
        let (mut room, mut fds) = ([0; 8], Vec::new());
        assert_eq!(recv_many(b.as_fd(), &mut room, &mut fds).unwrap(), 3);
        assert_eq!(fds.len(), FDS_MAX);
        for (n, (fd, (x, _))) in fds.iter().zip(&pairs).enumerate() {
            send(fd.as_fd(), &[n as u8], None).unwrap();
            assert_eq!(recv(x.as_fd(), 8).unwrap().0, [n as u8]);
        }
    }
}
