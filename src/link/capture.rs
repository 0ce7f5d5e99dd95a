//! A pcap file of exactly what the guest sees: every frame in either direction, as it crosses the link.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::wire::pcap;

/// An open capture. Traffic matters more than its record: a write that fails ends the capture with one log line, and what a
/// reader is too slow for is left out of it, whole frames at a time.
#[derive(Debug)]
pub struct Capture {
    out: Option<File>,
    /// What is to be written. A pipe may not have taken it yet.
    buffer: Vec<u8>,
    /// The pipe was full when it was last tried in this turn.
    full: bool,
    missing: u64,
}

/// Kept at most.
const BUFFER_BYTES: usize = 256 << 10;
/// How long the end may wait for a reader, in all.
const PATIENCE: Duration = Duration::from_secs(1);

impl Capture {
    /// Creates or truncates the file, readable by its owner only. A FIFO needs somebody who reads it.
    ///
    /// # Errors
    /// The file's.
    pub fn create(path: &Path) -> io::Result<Capture> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path).map_err(|e| match e.raw_os_error() {
            Some(libc::ENXIO) => {
                io::Error::other("it is a socket, or a FIFO that nobody reads: start its reader first")
            }
            _ => e,
        })?;
        let mut capture = Capture { out: Some(file), buffer: Vec::new(), full: false, missing: 0 };
        capture.buffer.extend_from_slice(&pcap::file_header());
        capture.write()?;
        Ok(capture)
    }

    /// Records one frame, given in parts.
    pub fn record(&mut self, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        if !self.has_room(pcap::RECORD_HEADER_LEN + len) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.buffer.extend_from_slice(&pcap::record_header(now, len));
        parts.iter().for_each(|part| self.buffer.extend_from_slice(part));
    }

    /// Writes out what is buffered: once a loop turn, so that a reader sees frames as they come.
    pub fn flush(&mut self) {
        self.full = false;
        self.put();
    }

    fn has_room(&mut self, len: usize) -> bool {
        if self.buffer.len() + len > BUFFER_BYTES && !self.full {
            self.put();
        }
        if self.out.is_none() {
            return false;
        }
        let fits = self.buffer.len() + len <= BUFFER_BYTES;
        if !fits {
            if self.missing == 0 {
                log::warn!("the reader of the packet capture file is too slow: frames will be missing");
            }
            self.missing += 1;
        }
        fits
    }

    fn put(&mut self) {
        if let Err(e) = self.write() {
            log::warn!("capture stopped: the packet capture file cannot be written: {e}");
            self.out = None;
            self.buffer = Vec::new();
        }
    }

    /// As much as the file takes.
    fn write(&mut self) -> io::Result<()> {
        let Some(out) = &mut self.out else { return Ok(()) };
        let mut written = 0;
        while written < self.buffer.len() {
            match out.write(&self.buffer[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.full = true;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        self.buffer.drain(..written);
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.flush();
        let end = Instant::now() + PATIENCE;
        while let Some(out) = self.out.as_ref().filter(|_| !self.buffer.is_empty()) {
            let left =
                PollTimeout::try_from(end.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::ZERO);
            if !matches!(poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLOUT)], left), Ok(1..)) {
                log::warn!("the end of the packet capture file is missing: its reader took nothing for {PATIENCE:?}");
                break;
            }
            self.flush();
        }
        if self.missing > 0 {
            log::warn!("{} frames are missing in the packet capture file, whose reader was too slow", self.missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::sys::stat::Mode;

    use super::*;

    /// Whole records, as many as there are.
    fn records(mut bytes: &[u8]) -> usize {
        bytes = &bytes[pcap::file_header().len()..];
        let mut count = 0;
        while !bytes.is_empty() {
            let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
            assert!(bytes[pcap::RECORD_HEADER_LEN..][..len].iter().all(|b| *b == 7), "frame {count}");
            bytes = &bytes[pcap::RECORD_HEADER_LEN + len..];
            count += 1;
        }
        count
    }

    #[test]
    fn a_reader_that_pauses_keeps_nobody_waiting_and_gets_whole_frames() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let e = Capture::create(&path).unwrap_err();
        assert!(e.to_string().ends_with("a FIFO that nobody reads: start its reader first"));
        let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let mut capture = Capture::create(&path).unwrap();
        for _ in 0..1000 {
            capture.record(&[&[7; 14], &[7; 1500]]);
            capture.flush();
        }
        let (lost, mut all, mut room) = (capture.missing, Vec::new(), [0; 4096]);
        assert!(lost > 0 && capture.buffer.len() <= BUFFER_BYTES);
        while let Ok(n @ 1..) = reader.read(&mut room) {
            all.extend_from_slice(&room[..n]);
            capture.flush();
        }
        assert_eq!(records(&all) as u64, 1000 - lost);
        drop(reader);
        capture.record(&[&[7; 14]]);
        capture.flush();
        assert!(capture.out.is_none(), "nobody reads any more");
    }

    #[test]
    fn the_end_comes_whole_if_its_reader_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let mut capture = Capture::create(&path).unwrap();
        (0..100).for_each(|_| capture.record(&[&[7; 1500]]));
        capture.flush();
        assert!(capture.missing == 0 && !capture.buffer.is_empty());
        let end = std::thread::spawn(move || drop(capture));
        let mut all = Vec::new();
        while !end.is_finished() {
            let _ = reader.read_to_end(&mut all);
        }
        let _ = reader.read_to_end(&mut all);
        assert_eq!(records(&all), 100);
    }

    #[test]
    fn a_file_has_all_frames() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut capture = Capture::create(&path).unwrap();
        (0..1000).for_each(|_| capture.record(&[&[7; 60_000]]));
        drop(capture);
        assert_eq!(records(&std::fs::read(&path).unwrap()), 1000);
    }
}
