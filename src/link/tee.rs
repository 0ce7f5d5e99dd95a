//! What each frame passes that crosses the link: the capture, the log, the count.

use super::{Capture, trace};

/// Watches a link's two directions.
#[derive(Debug, Default)]
pub struct Tee {
    capture: Option<Capture>,
    frames_to_guest: u64,
    bytes_to_guest: u64,
}

impl Tee {
    pub fn new(capture: Option<Capture>) -> Tee {
        Tee { capture, ..Tee::default() }
    }

    pub fn from_guest(&mut self, frame: &[u8]) {
        if let Some(c) = &mut self.capture {
            c.record(&[frame]);
        }
        trace::frame("from guest", frame, 0);
    }

    /// A frame that the link took; `head` has at least all of its headers.
    pub fn to_guest(&mut self, head: &[u8], payload: &[u8]) {
        self.frames_to_guest += 1;
        self.bytes_to_guest += (head.len() + payload.len()) as u64;
        if let Some(c) = &mut self.capture {
            c.record(&[head, payload]);
        }
        trace::frame("to guest", head, payload.len());
    }

    /// Ends a loop turn.
    pub fn flush(&mut self) {
        if let Some(c) = &mut self.capture {
            c.flush();
        }
    }

    /// Frames and bytes that the link took.
    pub fn sent(&self) -> (u64, u64) {
        (self.frames_to_guest, self.bytes_to_guest)
    }
}
