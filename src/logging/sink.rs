//! What every destination has in common, and standard error.

use std::io;
use std::os::fd::AsFd;

use log::Level;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::line::elapsed;
use crate::base::Instant;

/// A destination that takes a line now or not at all.
pub(super) trait Sink {
    /// False if the line is lost.
    fn put(&mut self, level: Level, now: Instant, text: &str) -> bool;
}

/// Tells how many lines were lost, once there is room again.
pub(super) struct Counting<S> {
    sink: S,
    lost: u64,
}

impl<S: Sink> Counting<S> {
    pub fn new(sink: S) -> Counting<S> {
        Counting { sink, lost: 0 }
    }

    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    pub fn put(&mut self, level: Level, now: Instant, text: &str) {
        if self.lost > 0 && self.sink.put(Level::Warn, now, &format!("{} messages could not be logged", self.lost)) {
            self.lost = 0;
        }
        if self.lost > 0 || !self.sink.put(level, now, text) {
            self.lost += 1;
        }
    }
}

/// Standard error, which may be a pipe that nobody reads.
pub(super) struct Stderr {
    prefix: Option<String>,
    timestamps: bool,
}

impl Stderr {
    pub fn new(prefix: Option<String>, timestamps: bool) -> Stderr {
        Stderr { prefix, timestamps }
    }

    /// What went wrong says whose words these are, among those of a command. The summary keeps the form that programs read.
    fn line(&self, level: Level, now: Instant, text: &str) -> String {
        let time = if self.timestamps { format!("{}: ", elapsed(now)) } else { String::new() };
        let named = self.prefix.as_ref().filter(|_| level <= Level::Warn);
        let prefix = named.map_or_else(String::new, |p| format!("{p}: "));
        format!("{time}{prefix}{text}\n")
    }
}

impl Sink for Stderr {
    fn put(&mut self, level: Level, now: Instant, text: &str) -> bool {
        write_if_ready(&io::stderr(), self.line(level, now, text).as_bytes())
    }
}

/// One write, if it will not block. The descriptor itself stays blocking: it is shared with other processes.
fn write_if_ready(fd: &impl AsFd, bytes: &[u8]) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
        && fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLOUT));
    ready && nix::unistd::write(fd, bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[derive(Default)]
    struct Fake {
        full: bool,
        lines: Vec<String>,
    }

    impl Sink for Fake {
        fn put(&mut self, _level: Level, _now: Instant, text: &str) -> bool {
            if !self.full {
                self.lines.push(text.into());
            }
            !self.full
        }
    }

    #[test]
    fn losses_are_counted() {
        let mut log = Counting::new(Fake::default());
        let put = |log: &mut Counting<Fake>, text| log.put(Level::Info, Instant::ZERO, text);
        put(&mut log, "a");
        log.sink.full = true;
        put(&mut log, "b");
        put(&mut log, "c");
        log.sink.full = false;
        put(&mut log, "d");
        put(&mut log, "e");
        assert_eq!(log.sink.lines, ["a", "2 messages could not be logged", "d", "e"]);
    }

    #[test]
    fn a_pipe_that_nobody_reads_does_not_block() {
        let (mut reader, writer) = io::pipe().unwrap();
        let line = [b'x'; 2048];
        let written = (0..1000).take_while(|_| write_if_ready(&writer, &line)).count();
        assert!((1..1000).contains(&written));
        let mut room = [0; 8192];
        reader.read_exact(&mut room).unwrap();
        assert!(write_if_ready(&writer, &line));
        drop(reader);
        assert!(!write_if_ready(&writer, &line));
    }

    #[test]
    fn lines_on_stderr() {
        let now = crate::base::Clock::BEGIN + std::time::Duration::from_millis(1500);
        let line = |prefix: Option<&str>, timestamps, level| {
            Stderr::new(prefix.map(String::from), timestamps).line(level, now, "text")
        };
        assert_eq!(line(None, false, Level::Error), "text\n");
        assert_eq!(line(None, true, Level::Error), "1.5000: text\n");
        assert_eq!(line(Some("spelt"), true, Level::Warn), "1.5000: spelt: text\n");
        assert_eq!(line(Some("spelt"), true, Level::Info), "1.5000: text\n");
    }
}
