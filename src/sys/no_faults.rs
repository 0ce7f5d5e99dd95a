//! No failures of system calls but the kernel's own: what the program is built with, and nothing of which is left in it. What
//! tests have instead is in `faults.rs`.

use std::borrow::Cow;
use std::io;
use std::os::fd::RawFd;

use mio::{Interest, Registry};

use super::iov::{Gather, Scatter};

/// A kind of call, for `faults.rs`.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    Send,
    Peek,
    Discard,
    Receive,
    Splice,
    SendDatagram,
    SendDatagrams,
    ReceiveDatagrams,
    SendMessages,
    ReceiveMessages,
    ErrorQueue,
    TapRead,
    TapWrite,
    GetOption,
    SetOption,
    Open,
    Connect,
    Accept,
    Pipe,
    Watch,
}

#[inline(always)]
pub fn begin() {}

#[inline(always)]
pub fn end() {}

/// # Errors
/// None.
#[inline(always)]
pub fn may_fail(_: Call, _: RawFd) -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub fn some(_: Call, _: RawFd, n: usize) -> usize {
    n
}

#[inline(always)]
pub fn beginning<'p, 'a>(_: Call, _: RawFd, pieces: &'p [Gather<'a>]) -> Cow<'p, [Gather<'a>]> {
    pieces.into()
}

#[inline(always)]
pub fn shorten(_: Call, _: RawFd, _: &mut [Scatter<'_>]) {}

#[inline(always)]
pub fn watched(_: &Registry, _: RawFd, _: mio::Token, _: Interest) {}
