//! A pcap file of exactly what the guest sees: every frame in either direction, as it crosses the link.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::wire::pcap;

/// An open capture. A write that fails ends it with one log line: traffic matters more than its record.
#[derive(Debug)]
pub struct Capture {
    out: Option<BufWriter<File>>,
}

impl Capture {
    /// Creates or truncates the file, readable by its owner only.
    ///
    /// # Errors
    /// The file's.
    pub fn create(path: &Path) -> io::Result<Capture> {
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        out.write_all(&pcap::file_header())?;
        out.flush()?;
        Ok(Capture { out: Some(out) })
    }

    /// Records one frame, given in parts.
    pub fn record(&mut self, parts: &[&[u8]]) {
        let Some(out) = &mut self.out else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = pcap::record_header(now, parts.iter().map(|p| p.len()).sum());
        let written = out.write_all(&header).and_then(|()| parts.iter().try_for_each(|p| out.write_all(p)));
        self.check(written);
    }

    /// Writes out what is buffered: once a loop turn, so that a reader sees frames as they come.
    pub fn flush(&mut self) {
        if let Some(out) = &mut self.out {
            let flushed = out.flush();
            self.check(flushed);
        }
    }

    fn check(&mut self, result: io::Result<()>) {
        if let Err(e) = result {
            log::warn!("capture stopped: the packet capture file cannot be written: {e}");
            self.out = None;
        }
    }
}
