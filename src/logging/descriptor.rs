//! A descriptor of the caller's: file, pipe, terminal or socket. It is shared with others, so it stays as it is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};

use super::line::timed;
use super::message::{Message, Source};
use super::sink::{Sink, write_if_ready};
use crate::config::LogFormat;
use crate::sys::{blocked, process};

pub(super) struct Descriptor {
    fd: OwnedFd,
    format: LogFormat,
    is_socket: bool,
    /// What a stream did not take of the last line.
    rest: Vec<u8>,
}

impl Descriptor {
    /// # Errors
    /// A sentence for the user.
    pub fn adopt(number: i32, format: LogFormat) -> Result<Descriptor, String> {
        let wrong = |what: &str| format!("descriptor {number} (option '--log-fd') {what}");
        let fd = process::adopt_descriptor(number).map_err(|_| wrong("was not left open by the caller"))?;
        let mode = fcntl(&fd, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
        if mode.is_ok_and(|mode| mode.contains(OFlag::O_PATH) || mode & OFlag::O_ACCMODE == OFlag::O_RDONLY) {
            return Err(wrong("is not open for writing"));
        }
        let is_socket =
            fstat(&fd).is_ok_and(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK);
        Ok(Descriptor { fd, format, is_socket, rest: Vec::new() })
    }

    /// What was taken of it, now or not at all.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_socket {
            return write_if_ready(&self.fd, bytes);
        }
        Ok(send(self.fd.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
    }
}

impl Sink for Descriptor {
    fn put(&mut self, message: &Message<'_>) -> bool {
        if !self.rest.is_empty() {
            let Ok(taken) = self.write(&self.rest) else { return false };
            self.rest.drain(..taken);
            if !self.rest.is_empty() {
                return false;
            }
        }
        let line = match self.format {
            LogFormat::Json => message.json(),
            LogFormat::Text => timed(message),
        };
        match self.write(line.as_bytes()) {
            Ok(taken) => {
                self.rest = line.as_bytes()[taken..].to_vec();
                true
            }
            Err(_) => false,
        }
    }

    fn last_resort(&self, _: &Source) -> Option<blocked::Log> {
        // A handler cannot ask first whether a pipe would make it wait.
        let regular =
            fstat(&self.fd).is_ok_and(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG);
        if regular { self.fd.try_clone().ok().map(blocked::Log::File) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Instant;
    use log::Level;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn put(log: &mut Descriptor, text: &str) -> bool {
        let (fields, source) = Default::default();
        let source: &Source = &source;
        log.put(&Message { level: Level::Info, at: Instant::ZERO, text, target: "app", fields: &fields, source })
    }

    #[test]
    fn a_socket_that_is_full_gets_whole_lines_again() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut log = Descriptor::adopt(ours.as_raw_fd(), LogFormat::Text).unwrap();
        let text = "x".repeat(2000);
        let sent = (0..10_000).take_while(|_| put(&mut log, &text)).count();
        assert!((1..10_000).contains(&sent));
        let mut room = vec![0; 1 << 20];
        let mut heard = theirs.read(&mut room).unwrap();
        assert!(put(&mut log, "again"));
        drop((log, ours));
        while let more @ 1.. = theirs.read(&mut room[heard..]).unwrap() {
            heard += more;
        }
        let all = String::from_utf8(room[..heard].to_vec()).unwrap();
        let line = format!("0.0000: info:    {text}\n");
        assert_eq!(all, line.repeat(sent) + "0.0000: info:    again\n");
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_only() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        drop((theirs, reader));
        for fd in [ours.as_raw_fd(), writer.as_raw_fd()] {
            assert!(!put(&mut Descriptor::adopt(fd, LogFormat::Json).unwrap(), "text"));
        }
    }

    #[test]
    fn what_cannot_be_written_to_is_refused() {
        let file = std::fs::File::open("/etc/passwd").unwrap();
        let refused = |fd| Descriptor::adopt(fd, LogFormat::Text).err().unwrap();
        assert!(refused(file.as_raw_fd()).ends_with("(option '--log-fd') is not open for writing"));
        assert_eq!(refused(1_000_000), "descriptor 1000000 (option '--log-fd') was not left open by the caller");
    }
}
