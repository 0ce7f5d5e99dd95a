//! The journal of systemd, in its own protocol: a datagram of `NAME=VALUE` lines, or `NAME`, a length and the value where that
//! has lines of its own (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>). So a message keeps its level, and who said it can be
//! asked for: `journalctl SPELT_INSTANCE=...`.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use log::Level;
use nix::sys::stat::fstat;
use serde_json::Value;

use super::datagrams::Datagrams;
use super::message::{Message, Source};
use super::sink::Sink;
use crate::sys::blocked;

pub(super) struct Journal(Datagrams);

impl Journal {
    /// `None`: nobody is there.
    pub fn open(path: &Path) -> Option<Journal> {
        Some(Journal(Datagrams::open(path))).filter(|journal| journal.0.is_connected())
    }
}

impl Sink for Journal {
    fn put(&mut self, message: &Message<'_>) -> bool {
        self.0.now = message.at;
        self.0.write(&entry(message)).is_ok()
    }

    fn last_resort(&self, source: &Source) -> Option<blocked::Log> {
        let mut before = Vec::new();
        general(&mut before, Level::Error, source);
        before.extend(b"MESSAGE=");
        Some(blocked::Log::System(self.0.descriptor()?, String::from_utf8(before).ok()?))
    }
}

/// True if what is written to `stream` goes to the journal, as the service manager says that it has connected it
/// (systemd.exec(5), `JOURNAL_STREAM`).
pub(super) fn is_behind(stream: &impl AsFd) -> bool {
    let named = std::env::var_os("JOURNAL_STREAM");
    named
        .zip(fstat(stream).ok())
        .is_some_and(|(name, is)| name.as_bytes() == format!("{}:{}", is.st_dev, is.st_ino).as_bytes())
}

/// True if the journal is who listens at the system log's socket.
pub(super) fn is_at(syslog_socket: &Path) -> bool {
    std::fs::canonicalize(syslog_socket).is_ok_and(|path| path == Path::new(DEV_LOG))
}

fn entry(message: &Message<'_>) -> Vec<u8> {
    let mut entry = Vec::with_capacity(message.text.len() + 256);
    general(&mut entry, message.level, message.source);
    add(&mut entry, "MESSAGE", message.text);
    add(&mut entry, "CODE_MODULE", message.target);
    for (name, value) in message.fields {
        let text = value.as_str().map_or_else(|| Value::to_string(value), str::to_owned);
        add(&mut entry, &format!("SPELT_{}", name.to_uppercase()), &text);
    }
    entry
}

fn general(entry: &mut Vec<u8>, level: Level, source: &Source) {
    let priority = match level {
        Level::Error => "3",
        Level::Warn => "4",
        Level::Info => "6",
        Level::Debug | Level::Trace => "7",
    };
    add(entry, "PRIORITY", priority);
    // LOG_DAEMON.
    add(entry, "SYSLOG_FACILITY", "3");
    add(entry, "SYSLOG_IDENTIFIER", &source.ident);
    add(entry, "SPELT_INSTANCE", &source.instance());
}

fn add(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

/// What `/dev/log` leads to where the journal has it.
const DEV_LOG: &str = "/run/systemd/journal/dev-log";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Instant;

    #[test]
    fn an_entry_is_a_line_a_field() {
        let source = Source { ident: "spelt".into(), control: Some("/run/a\nb".into()) };
        let fields = [("port".to_string(), Value::from(80))].into_iter().collect();
        let message = Message {
            level: Level::Warn,
            at: Instant::ZERO,
            text: "some text",
            target: "app",
            fields: &fields,
            source: &source,
        };
        let expected =
            b"PRIORITY=4\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=spelt\nSPELT_INSTANCE\n\x08\0\0\0\0\0\0\0/run/a\nb\n\
                         MESSAGE=some text\nCODE_MODULE=app\nSPELT_PORT=80\n";
        assert_eq!(String::from_utf8_lossy(&entry(&message)), String::from_utf8_lossy(expected));
    }

    #[test]
    fn other_streams_are_not_the_journals() {
        assert!(!is_behind(&std::io::stderr()) || std::env::var_os("JOURNAL_STREAM").is_some());
        assert!(!is_at(Path::new("/no/such/socket")));
        assert!(Journal::open(Path::new("/no/such/socket")).is_none());
    }
}
