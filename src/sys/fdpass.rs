//! Messages with an optional descriptor between us and a child of ours.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

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
    let raw = fd.map(|f| [f.as_raw_fd()]);
    let control = raw.as_ref().map(|r| [ControlMessage::ScmRights(r)]);
    let control = control.as_ref().map_or(&[][..], |c| &c[..]);
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(message)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Waits for a message of at most `room` bytes. Empty: the peer is gone.
///
/// # Errors
/// The kernel's.
pub fn recv(from: BorrowedFd<'_>, room: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut buf = vec![0; room];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    loop {
        let mut iov = [IoSliceMut::new(&mut buf)];
        let got = recvmsg::<()>(from.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC);
        let msg = match got {
            Err(nix::Error::EINTR) => continue,
            other => other?,
        };
        let mut fd = None;
        for c in msg.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = c {
                for raw in fds {
                    // SAFETY: the kernel has just installed this descriptor for us and nobody else knows it.
                    fd = Some(unsafe { OwnedFd::from_raw_fd(raw) });
                }
            }
        }
        let len = msg.bytes;
        buf.truncate(len);
        return Ok((buf, fd));
    }
}

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
}
