//! What every destination has in common, and standard error.

use std::io;
use std::os::fd::AsFd;

use log::Level;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Map;

use super::line::elapsed;
use super::message::{Message, Source};
use crate::config::LogFormat;
use crate::sys::blocked;

/// A destination that takes a line now or not at all.
pub(super) trait Sink: Send {
    /// False if the line is lost.
    fn put(&mut self, message: &Message<'_>) -> bool;

    /// What comes before the first message, and names this process.
    ///
    /// # Errors
    /// The kernel's.
    fn begin(&mut self, _: &Source) -> io::Result<()> {
        Ok(())
    }

    /// The same destination, for a signal handler.
    fn last_resort(&self, _: &Source) -> Option<blocked::Log> {
        None
    }
}

impl Sink for Box<dyn Sink> {
    fn put(&mut self, message: &Message<'_>) -> bool {
        (**self).put(message)
    }

    fn begin(&mut self, source: &Source) -> io::Result<()> {
        (**self).begin(source)
    }

    fn last_resort(&self, source: &Source) -> Option<blocked::Log> {
        (**self).last_resort(source)
    }
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

    pub fn sink(&self) -> &S {
        &self.sink
    }

    pub fn begin(&mut self, source: &Source) -> io::Result<()> {
        self.sink.begin(source)
    }

    pub fn put(&mut self, message: &Message<'_>) {
        if self.lost > 0 {
            let text = format!("{} messages could not be logged", self.lost);
            let fields = Map::from_iter([("lost".to_string(), self.lost.into())]);
            if self.sink.put(&Message::of_the_log(Level::Warn, message.at, &text, &fields, message.source)) {
                self.lost = 0;
            }
        }
        if self.lost > 0 || !self.sink.put(message) {
            self.lost += 1;
        }
    }
}

/// Standard error, which may be a pipe that nobody reads.
pub(super) struct Stderr {
    pub format: LogFormat,
    /// Put the program's name before what went wrong.
    pub prefix: bool,
    pub timestamps: bool,
}

impl Stderr {
    /// What went wrong says whose words these are, among those of a command. The summary keeps the form that programs read.
    fn line(&self, message: &Message<'_>) -> String {
        if self.format == LogFormat::Json {
            return message.json();
        }
        let time = if self.timestamps { format!("{}: ", elapsed(message.at)) } else { String::new() };
        let named = self.prefix && message.level <= Level::Warn;
        let prefix = if named { format!("{}: ", message.source.ident) } else { String::new() };
        format!("{time}{prefix}{}\n", message.text)
    }
}

impl Sink for Stderr {
    fn put(&mut self, message: &Message<'_>) -> bool {
        write_if_ready(&io::stderr(), self.line(message).as_bytes()).is_ok()
    }
}

/// One write, if it will not block. The descriptor itself stays blocking: it is shared with other processes.
///
/// # Errors
/// `WouldBlock`; the kernel's.
pub(super) fn write_if_ready(fd: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    let ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
        && fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLOUT));
    if ready { Ok(nix::unistd::write(fd, bytes)?) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Instant;
    use std::io::Read;

    #[derive(Default)]
    struct Fake {
        full: bool,
        lines: Vec<String>,
    }

    impl Sink for Fake {
        fn put(&mut self, message: &Message<'_>) -> bool {
            if !self.full {
                self.lines.push(message.text.into());
            }
            !self.full
        }
    }

    #[test]
    fn losses_are_counted() {
        let mut log = Counting::new(Fake::default());
        let source = Source::default();
        let put = |log: &mut Counting<Fake>, text| {
            log.put(&Message::of_the_log(Level::Info, Instant::ZERO, text, &Map::new(), &source));
        };
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
        let written = (0..1000).take_while(|_| write_if_ready(&writer, &line).is_ok()).count();
        assert!((1..1000).contains(&written));
        let mut room = [0; 8192];
        reader.read_exact(&mut room).unwrap();
        assert!(write_if_ready(&writer, &line).is_ok());
        drop(reader);
        assert!(write_if_ready(&writer, &line).is_err());
    }

    #[test]
    fn lines_on_stderr() {
        let now = crate::base::Clock::BEGIN + std::time::Duration::from_millis(1500);
        let source = Source { ident: "spelt".into(), control: None };
        let line = |prefix, timestamps, level| {
            let stderr = Stderr { format: LogFormat::Text, prefix, timestamps };
            stderr.line(&Message::of_the_log(level, now, "text", &Map::new(), &source))
        };
        assert_eq!(line(false, false, Level::Error), "text\n");
        assert_eq!(line(false, true, Level::Error), "1.5000: text\n");
        assert_eq!(line(true, true, Level::Warn), "1.5000: spelt: text\n");
        assert_eq!(line(true, true, Level::Info), "1.5000: text\n");
    }
}
