//! What the control thread has a worker do: a call, between two turns of its loop.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::engine::Engine;
use crate::base::{Instant, Kind, Token};

type Job = Box<dyn FnOnce(&mut Engine, Instant) + Send>;

/// Calls of one turn.
const JOBS: usize = 8;
/// How long a worker may take: longer than any turn.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The worker's end. Its bell is not the event loop's waker, of which there is one only, for the other workers.
pub(super) struct Desk {
    jobs: Receiver<Job>,
    bell: Arc<EventFd>,
}

/// The control thread's.
#[derive(Clone)]
pub(super) struct Clerk {
    jobs: Sender<Job>,
    bell: Arc<EventFd>,
}

/// The worker has ended, or does not come to it.
#[derive(Debug)]
pub(super) struct Unattended;

/// `registry`: of the worker's loop.
///
/// # Errors
/// The kernel's.
pub(super) fn pair(registry: &Registry) -> io::Result<(Desk, Clerk)> {
    let bell = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
    let token = mio::Token(Token::only(Kind::Desk).to_usize());
    registry.register(&mut SourceFd(&bell.as_raw_fd()), token, Interest::READABLE)?;
    let (sender, jobs) = channel();
    Ok((Desk { jobs, bell: bell.clone() }, Clerk { jobs: sender, bell }))
}

impl Clerk {
    /// Asks the worker to do `job`, and returns where its answer comes.
    pub fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine, Instant) -> T + Send + 'static,
    ) -> Result<Answer<T>, Unattended> {
        let (sender, answer) = channel();
        let job = Box::new(move |engine: &mut Engine, now| drop(sender.send(job(engine, now))));
        self.jobs.send(job).map_err(|_| Unattended)?;
        ring(&self.bell);
        Ok(Answer(answer))
    }

    /// Has the worker do `job`, which changes something, and waits for its end. What has not begun after `patience` is not done
    /// any more: nobody is told that nothing has changed, and then it does.
    pub fn have_done<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine) -> T + Send + 'static,
        patience: Duration,
    ) -> Result<T, Unattended> {
        let open = Arc::new(AtomicBool::new(true));
        let begun = open.clone();
        let Answer(answer) = self.ask(move |engine, _| begun.swap(false, Ordering::Relaxed).then(|| job(engine)))?;
        let done = match answer.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) if !open.swap(false, Ordering::Relaxed) => answer.recv().ok(),
            in_time => in_time.ok(),
        };
        done.flatten().ok_or(Unattended)
    }
}

pub(super) struct Answer<T>(Receiver<T>);

impl<T> Answer<T> {
    pub fn wait(self) -> Result<T, Unattended> {
        self.0.recv_timeout(PATIENCE).map_err(|_| Unattended)
    }
}

impl Engine {
    /// Does what the control thread has asked for.
    pub(super) fn attend(&mut self, now: Instant) {
        let Some(desk) = self.desk.take() else { return };
        let mut left = JOBS;
        while left > 0
            && let Ok(job) = desk.jobs.try_recv()
        {
            job(self, now);
            left -= 1;
        }
        if left == 0 {
            ring(&desk.bell);
        }
        self.desk = Some(desk);
    }
}

/// An edge for each: the count need not be read, and is full after 2^64.
fn ring(bell: &EventFd) {
    let _ = bell.write(1);
}
