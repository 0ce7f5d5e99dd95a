//! A local socket of a daemon that takes messages as datagrams: sends without waiting, and finds a restarted daemon.

use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::Instant;

pub(super) struct Datagrams {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    pub now: Instant,
    /// No attempt to connect before.
    retry: Instant,
}

impl Datagrams {
    /// Connected at once, if somebody is there: the socket may be unreachable by name soon, and looking for it is in vain then.
    pub fn open(path: &Path) -> Datagrams {
        let mut datagrams = Datagrams { path: path.into(), socket: None, now: Instant::ZERO, retry: Instant::ZERO };
        datagrams.connect();
        datagrams
    }

    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// A second descriptor for the same socket.
    pub fn descriptor(&self) -> Option<OwnedFd> {
        self.socket.as_ref()?.try_clone().ok().map(OwnedFd::from)
    }

    fn connect(&mut self) {
        if self.now < self.retry {
            return;
        }
        self.retry = self.now + RETRY;
        self.socket = connect(&self.path).ok();
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.as_ref().ok_or(ErrorKind::NotConnected)?.send(bytes)
    }
}

/// One write is one datagram.
impl Write for Datagrams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.send(bytes) {
            // What a connected socket says when its peer has closed: unix(7).
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::NotConnected | ErrorKind::ConnectionReset
                ) =>
            {
                self.connect();
                self.send(bytes)
            }
            sent => sent,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// Between attempts to find the daemon, so that a storm of messages does not become one of connection attempts.
const RETRY: Duration = Duration::from_secs(1);
