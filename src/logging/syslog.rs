//! The system log: RFC 3164 section 4.1 in the local form, `<priority>ident[pid]: text`, as datagrams to `/dev/log`.
//!
//! Crate `syslog` has the severities and the generic logger; its own transport blocks and never reconnects, and its own
//! format has a time that local daemons do not expect.

use std::io::Write;
use std::path::Path;

use ::syslog::{Facility, LogFormat, Logger, Severity};
use log::Level;

use super::datagrams::Datagrams;
use super::message::{Message, Source};
use super::sink::Sink;
use crate::sys::blocked;

pub(super) struct Syslog(Logger<Datagrams, Plain>);

impl Syslog {
    /// A system log that is not there is tried again with later messages.
    pub fn open(ident: &str, path: &Path) -> Syslog {
        Syslog(Logger::new(Datagrams::open(path), Plain { ident: ident.into() }))
    }
}

impl Sink for Syslog {
    fn put(&mut self, message: &Message<'_>) -> bool {
        self.0.backend.now = message.at;
        let sent = match message.level {
            Level::Error => self.0.err(message.text),
            Level::Warn => self.0.warning(message.text),
            Level::Info => self.0.info(message.text),
            Level::Debug | Level::Trace => self.0.debug(message.text),
        };
        sent.is_ok()
    }

    fn last_resort(&self, _: &Source) -> Option<blocked::Log> {
        let mut before = Vec::new();
        self.0.formatter.format(&mut before, Severity::LOG_ERR, "").ok()?;
        Some(blocked::Log::System(self.0.backend.descriptor()?, String::from_utf8(before).ok()?))
    }
}

struct Plain {
    ident: String,
}

impl LogFormat<&str> for Plain {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, message: &str) -> ::syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        let pid = std::process::id();
        w.write_all(format!("<{priority}>{}[{pid}]: {message}", self.ident).as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Instant;
    use std::os::unix::net::UnixDatagram;

    fn put(log: &mut Syslog, level: Level, at: Instant, text: &str) -> bool {
        let (fields, source) = Default::default();
        log.put(&Message { level, at, text, target: "app", fields: &fields, source: &source })
    }

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
            assert!(put(&mut log, level, at(1), "some text"));
            assert_eq!(received(&socket), Some(format!("<{priority}>pasta[{pid}]: some text")));
        }
    }

    #[test]
    fn a_restarted_daemon_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Syslog::open("pasta", &path);
        assert!(!put(&mut log, Level::Info, at(1), "nobody there"));
        let socket = daemon(&path);
        assert!(!put(&mut log, Level::Info, at(1), "too soon to look again"));
        assert!(put(&mut log, Level::Info, at(2), "first"));
        assert_eq!(received(&socket), Some(format!("<30>pasta[{}]: first", std::process::id())));
        drop(socket);
        let socket = daemon(&path);
        assert!(put(&mut log, Level::Info, at(4), "second"));
        assert!(received(&socket).unwrap().ends_with("second"));
    }

    #[test]
    fn a_busy_daemon_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let socket = daemon(&path);
        let mut log = Syslog::open("pasta", &path);
        let sent = (0..100_000).take_while(|_| put(&mut log, Level::Info, at(1), "x")).count();
        assert!(sent < 100_000);
        assert!(received(&socket).is_some());
        assert!(put(&mut log, Level::Info, at(1), "room again"));
    }
}
