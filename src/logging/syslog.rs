//! The system log: RFC 3164 section 4.1 in the local form, `<priority>ident[pid]: text`, as datagrams to `/dev/log`.
//!
//! Crate `syslog` has the severities and the generic logger; its own transport blocks and never reconnects, and its own
//! format has a time that local daemons do not expect.

use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::syslog::{Facility, LogFormat, Logger, Severity};
use log::Level;

use super::sink::Sink;
use crate::base::Instant;

pub(super) struct Syslog(Logger<Datagrams, Plain>);

impl Syslog {
    /// A system log that is not there is tried again with later messages.
    pub fn open(ident: &str, path: &Path) -> Syslog {
        let mut datagrams = Datagrams { path: path.into(), socket: None, now: Instant::ZERO, retry: Instant::ZERO };
        datagrams.connect();
        // Not before: the socket may be unreachable by name soon, and looking for it is in vain then.
        Syslog(Logger::new(datagrams, Plain { ident: ident.into(), pid: None }))
    }

    /// A second one for the same socket, and what comes before an error's text.
    pub fn descriptor(&self) -> Option<(OwnedFd, String)> {
        let fd = self.0.backend.socket.as_ref()?.try_clone().ok()?;
        let mut before = Vec::new();
        self.0.formatter.format(&mut before, Severity::LOG_ERR, "").ok()?;
        Some((fd.into(), String::from_utf8(before).ok()?))
    }

    pub fn set_pid(&mut self, pid: u32) {
        self.0.formatter.pid = Some(pid);
    }
}

impl Sink for Syslog {
    fn put(&mut self, level: Level, now: Instant, text: &str) -> bool {
        self.0.backend.now = now;
        let sent = match level {
            Level::Error => self.0.err(text),
            Level::Warn => self.0.warning(text),
            Level::Info => self.0.info(text),
            Level::Debug | Level::Trace => self.0.debug(text),
        };
        sent.is_ok()
    }
}

struct Plain {
    ident: String,
    pid: Option<u32>,
}

impl LogFormat<&str> for Plain {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, message: &str) -> ::syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        let pid = self.pid.unwrap_or_else(std::process::id);
        // One write is one datagram.
        w.write_all(format!("<{priority}>{}[{pid}]: {message}", self.ident).as_bytes())?;
        Ok(())
    }
}

/// Sends without waiting, and finds a restarted daemon.
struct Datagrams {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    now: Instant,
    /// No attempt to connect before.
    retry: Instant,
}

impl Datagrams {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(secs * 1_000_000_000)
    }

    fn daemon(path: &Path) -> UnixDatagram {
        let _ = std::fs::remove_file(path);
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn received(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 4096];
        socket.recv(&mut buffer).ok().map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
    }

    #[test]
    fn datagrams_have_priority_name_and_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let socket = daemon(&path);
        let mut log = Syslog::open("pasta", &path);
        let pid = std::process::id();
        for (level, priority) in [(Level::Error, 27), (Level::Warn, 28), (Level::Info, 30), (Level::Debug, 31)] {
            assert!(log.put(level, at(1), "some text"));
            assert_eq!(received(&socket), Some(format!("<{priority}>pasta[{pid}]: some text")));
        }
        log.set_pid(77);
        assert!(log.put(Level::Info, at(1), "x"));
        assert_eq!(received(&socket), Some("<30>pasta[77]: x".into()));
    }

    #[test]
    fn a_restarted_daemon_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Syslog::open("pasta", &path);
        assert!(!log.put(Level::Info, at(1), "nobody there"));
        let socket = daemon(&path);
        assert!(!log.put(Level::Info, at(1), "too soon to look again"));
        assert!(log.put(Level::Info, at(2), "first"));
        assert_eq!(received(&socket), Some(format!("<30>pasta[{}]: first", std::process::id())));
        drop(socket);
        let socket = daemon(&path);
        assert!(log.put(Level::Info, at(4), "second"));
        assert!(received(&socket).unwrap().ends_with("second"));
    }

    #[test]
    fn a_busy_daemon_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let socket = daemon(&path);
        let mut log = Syslog::open("pasta", &path);
        let sent = (0..100_000).take_while(|_| log.put(Level::Info, at(1), "x")).count();
        assert!(sent < 100_000);
        assert!(received(&socket).is_some());
        assert!(log.put(Level::Info, at(1), "room again"));
    }
}
