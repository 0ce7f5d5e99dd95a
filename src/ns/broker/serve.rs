//! The broker's own side.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::prctl;

use super::super::Error;
use super::protocol::{self, REQUEST_BYTES, Request, What};
use crate::sys::sockets::{self, Here, Sockets};
use crate::sys::{fdpass, process, signal};

/// Everything the broker does. Does not return: the memory is a copy of the parent's, whose destructors must not run here.
pub fn main<E: Display>(
    channel: OwnedFd,
    enter: impl FnOnce() -> Result<(), Error>,
    confine: impl FnOnce() -> Result<(), E>,
) -> ! {
    // The logger's descriptor is about to be closed, and its number to be used again.
    log::set_max_level(log::LevelFilter::Off);
    let hello = match prepare(&channel, enter, confine) {
        Ok(()) => vec![protocol::READY],
        Err(e) => {
            let mut text = vec![protocol::FAILED];
            text.extend(e.to_string().bytes().take(protocol::HELLO_BYTES - 1));
            text
        }
    };
    let ready = hello[0] == protocol::READY;
    if fdpass::send(channel.as_fd(), &hello, None).is_ok() && ready {
        while answer(channel.as_fd()).is_ok_and(|more| more) {}
    }
    process::exit_now(0)
}

fn prepare<E: Display>(
    channel: &OwnedFd,
    enter: impl FnOnce() -> Result<(), Error>,
    confine: impl FnOnce() -> Result<(), E>,
) -> Result<(), Error> {
    signal::block_all().map_err(Error::io("cannot block signals"))?;
    process::hide_from_tracers().map_err(Error::io("cannot switch off tracing"))?;
    enter()?;
    // A pipe among the standard streams would keep its reader waiting after we have let go of it.
    process::let_go_of_std_fds();
    process::close_inherited(Some(channel.as_raw_fd()));
    let _ = prctl::set_name(c"spelt-broker");
    // The last word is its: nothing may be possible afterwards but to answer. A parent that is gone already has closed the
    // channel.
    confine().map_err(|e| Error::Failed(e.to_string()))
}

/// One request. False: the parent is gone.
///
/// # Errors
/// The kernel's.
pub fn answer(channel: BorrowedFd<'_>) -> io::Result<bool> {
    // Room for a byte too many: a message that is longer than any request is none.
    let mut message = [0; REQUEST_BYTES + 1];
    let len = fdpass::recv_many(channel, &mut message, &mut Vec::new())?;
    if len == 0 {
        return Ok(false);
    }
    let (made, errno) = match Request::decode(&message[..len]) {
        Some(request) => make(&request),
        None => (Vec::new(), libc::EINVAL),
    };
    let fds: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
    let sent = fdpass::send_many(channel, &errno.to_ne_bytes(), &fds);
    match sent.map_err(|e| e.raw_os_error()) {
        Ok(()) => Ok(true),
        Err(Some(e @ (libc::ETOOMANYREFS | libc::ENOBUFS | libc::ENOMEM))) => {
            fdpass::send(channel, &e.to_ne_bytes(), None).map(|()| true)
        }
        Err(_) => Ok(false),
    }
}

/// As many as can be had; an error only if there is none.
fn make(request: &Request) -> (Vec<OwnedFd>, i32) {
    let mut made = Vec::with_capacity(request.count);
    for _ in 0..request.count {
        let one = match &request.what {
            What::Socket(wanted) => Here.make(wanted),
            What::Diag => sockets::diag(),
        };
        match one {
            Ok(socket) => made.push(socket.into()),
            Err(e) if made.is_empty() => return (made, e.raw_os_error().unwrap_or(libc::EIO)),
            Err(_) => break,
        }
    }
    (made, 0)
}
