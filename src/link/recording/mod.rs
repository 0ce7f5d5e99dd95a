//! Captures that begin and end while we run: frames of the link, as pcapng, into a file or pipe that somebody has opened for us.
//!
//! *Goals.* Whoever looks at the traffic does not change it: no reader, however slow or stopped, and no full disk delays a
//! frame. What could not be recorded is counted, in the capture itself and for who asks. Nobody captures: it costs a comparison.
//!
//! *Where a frame goes.* A worker has a [`Recorder`] for each capture. It copies a frame that fits ([`Pick`]) to memory of its
//! own; at the end of the turn all of it goes into the capture's queue ([`Recording`]), behind a lock that is held for as long as
//! the copy takes. One thread, [`Writer`], takes whole queues out, makes blocks of them, and writes. Frames come in
//! the order in which their workers hand them in; their times tell in which they were seen.
//!
//! *From the guest* a frame is recorded when its turn comes to be dealt with, by the worker that deals with it, and it is dealt
//! with to the end before the next: then it is known whether it was dropped, and why. *To the guest*, when the link has taken it.
//! Both as they cross the link: a super-frame is one frame, and a checksum that is left to the other side is not there yet.
//!
//! *Directions* are those of the guest's interface, whose name the capture has: what comes from the guest is outbound.
//!
//! *The end*: a request; a file as large as it may be; an error; of a pipe, when its reader has gone. After a request what is
//! queued is still written, unless the reader takes nothing for `writer::PATIENCE`. A file never ends within a block.
//!
//! *Limits*: [`RECORDINGS_MAX`] captures; of each `queue::QUEUE_BYTES` in the queue, as many with the writer, and
//! `recorder::STAGE_BYTES_MAX` with each worker.
//!
//! System calls: write, poll, read (bell), close; statx and ftruncate (a file that could not be written to the end); futex.

mod pick;
mod queue;
mod recorder;
mod writer;

use std::fs::File;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::eventfd::{EfdFlags, EventFd};

pub use pick::{Pick, Protocol};
pub use queue::{Counts, Recording};
pub use recorder::Recorder;
pub use writer::Writer;
use writer::{Order, Section};

/// At a time.
pub const RECORDINGS_MAX: usize = 4;

/// What a capture is to be.
#[derive(Debug)]
pub struct Wanted {
    pub pick: Pick,
    /// Bytes of a frame that are kept; `None`: all.
    pub snaplen: Option<u32>,
    /// The output gets no more bytes than this.
    pub limit: Option<u64>,
    /// A regular file, or a pipe that does not wait.
    pub output: File,
}

/// The captures of an instance.
#[derive(Clone, Debug)]
pub struct Recordings(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bell: Arc<EventFd>,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    orders: Sender<Order>,
    running: Vec<Arc<Recording>>,
    /// Of those that have ended.
    past: Counts,
    last_id: u64,
}

impl Recordings {
    /// `application`, `os`, `interface`: what each capture says of where it comes from.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(application: String, os: String, interface: String) -> io::Result<(Recordings, Writer)> {
        let bell = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (orders, received) = channel();
        let books = Mutex::new(Books { orders, running: Vec::new(), past: Counts::default(), last_id: 0 });
        let writer = Writer::new(bell.clone(), received, Section { application, os, interface });
        Ok((Recordings(Arc::new(Shared { bell, books })), writer))
    }

    /// Begins a capture, of which the workers are to have recorders. `None`: there are as many as there may be.
    pub fn begin(&self, wanted: Wanted) -> Option<Arc<Recording>> {
        let mut books = self.books();
        if books.running.len() >= RECORDINGS_MAX {
            return None;
        }
        books.last_id += 1;
        let Wanted { pick, snaplen, limit, output } = wanted;
        let recording = Arc::new(Recording::new(books.last_id, pick, snaplen, self.0.bell.clone()));
        // There is a writer for as long as there is a process.
        books.orders.send(Order { recording: recording.clone(), output, limit }).ok()?;
        queue::ring(&self.0.bell);
        books.running.push(recording.clone());
        Some(recording)
    }

    /// Those that have not ended.
    pub fn running(&self) -> Vec<Arc<Recording>> {
        self.books().running.clone()
    }

    /// Of all there are and have been.
    pub fn counts(&self) -> Counts {
        let books = self.books();
        books.running.iter().fold(books.past, |all, recording| all.with(&recording.counts()))
    }

    /// Ends all captures, and waits for their ends to be written.
    pub fn finish(&self) {
        let running = self.running();
        running.iter().for_each(|recording| recording.stop());
        running.iter().for_each(|recording| {
            recording.wait();
        });
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        let mut books = self.0.books.lock().unwrap_or_else(PoisonError::into_inner);
        let (over, running) = std::mem::take(&mut books.running).into_iter().partition(|r| r.is_over());
        books.running = running;
        let over: Vec<Arc<Recording>> = over;
        books.past = over.iter().fold(books.past, |all, recording| all.with(&recording.counts()));
        books
    }
}

/// Since the epoch.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
