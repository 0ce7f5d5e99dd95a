//! What each frame passes that crosses the link: the captures, the log, the count.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::recording::Recorder;
use super::{Capture, trace};
use crate::base::DropReason;
use crate::guest::Frame;
use crate::wire::Parsed;

/// Watches a link's two directions, or a worker's part of them.
#[derive(Debug, Default)]
pub struct Tee {
    /// One file for all workers.
    capture: Option<Arc<Mutex<Capture>>>,
    /// This worker's, of captures that came later.
    recorders: Vec<Recorder>,
    frames_to_guest: u64,
    bytes_to_guest: u64,
}

impl Tee {
    pub fn new(capture: Option<Capture>) -> Tee {
        Tee { capture: capture.map(|c| Arc::new(Mutex::new(c))), ..Tee::default() }
    }

    /// For another worker's part of the same link.
    #[must_use]
    pub fn sibling(&self) -> Tee {
        Tee { capture: self.capture.clone(), ..Tee::default() }
    }

    fn capture(&self) -> Option<MutexGuard<'_, Capture>> {
        // A capture whose writer has ended early is one with a record cut short.
        self.capture.as_ref().map(|c| c.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Frames of the guest are to be shown whole.
    pub fn wants_whole(&self) -> bool {
        self.capture.is_some()
    }

    /// Frames to the guest are to be shown with their payload. It may change between two turns.
    pub fn wants_payload(&self) -> bool {
        self.capture.is_some() || self.is_recording()
    }

    pub fn is_recording(&self) -> bool {
        !self.recorders.is_empty()
    }

    /// From now on.
    pub fn record(&mut self, recorder: Recorder) {
        self.recorders.push(recorder);
    }

    /// Hands in what belongs to this capture, and leaves it.
    pub fn leave(&mut self, id: u64) {
        for mut recorder in self.recorders.extract_if(.., |recorder| recorder.id() == id) {
            recorder.flush();
        }
    }

    /// A frame of the guest that is dealt with now.
    pub fn dealing_with(&mut self, frame: &Frame<'_>, parsed: &Result<Parsed, DropReason>) {
        self.recorders.iter_mut().for_each(|recorder| recorder.from_guest(frame.head, frame.rest, parsed));
    }

    /// What became of it. `Some`: it was dropped.
    pub fn dealt_with(&mut self, reason: Option<DropReason>) {
        self.recorders.iter_mut().for_each(|recorder| recorder.dealt_with(reason));
    }

    pub fn from_guest(&mut self, frame: &[u8]) {
        self.from_guest_in_part(frame, 0);
    }

    /// A frame with `rest` bytes more, which nobody wants to see.
    pub fn from_guest_in_part(&mut self, frame: &[u8], rest: usize) {
        if let Some(mut c) = self.capture() {
            c.record(&[frame]);
        }
        trace::frame("from guest", frame, rest);
    }

    /// A frame that the link took; `head` has at least all of its headers.
    pub fn to_guest(&mut self, head: &[u8], payload: &[u8]) {
        if let Some(mut c) = self.capture() {
            c.record(&[head, payload]);
        }
        self.recorders.iter_mut().for_each(|recorder| recorder.to_guest(head, payload));
        self.to_guest_in_part(head, payload.len());
    }

    /// The same with `rest` bytes of payload, which nobody wants to see.
    pub fn to_guest_in_part(&mut self, head: &[u8], rest: usize) {
        self.frames_to_guest += 1;
        self.bytes_to_guest += (head.len() + rest) as u64;
        trace::frame("to guest", head, rest);
    }

    /// Ends a loop turn.
    pub fn flush(&mut self) {
        if let Some(mut c) = self.capture() {
            c.flush();
        }
        if self.is_recording() {
            self.recorders.retain_mut(Recorder::flush);
        }
    }

    /// Frames and bytes that the link took.
    pub fn sent(&self) -> (u64, u64) {
        (self.frames_to_guest, self.bytes_to_guest)
    }
}
