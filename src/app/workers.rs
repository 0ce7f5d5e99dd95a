//! The threads of the workers beside the first one, which is the main thread.

use std::sync::mpsc::{Sender, channel};
use std::{io, thread};

use anyhow::Context;

use super::crew::{Message, Seat};
use super::engine::{Common, Engine, Next, Parts};
use super::ports::Forwarding;
use crate::link::Link;
use crate::sandbox;

/// What a worker beside the first begins with.
pub struct Recruit {
    pub seat: Seat,
    pub link: Link,
    pub common: Common,
}

impl Recruit {
    /// Starts the thread, which first of all gives up what is not needed and says how that went. It ends when the first worker
    /// says so; if it fails, so does the process.
    fn start(
        self,
        params: sandbox::Params,
        confined: Sender<Result<(), sandbox::Error>>,
    ) -> io::Result<thread::JoinHandle<()>> {
        let number = self.seat.crew.as_ref().map_or(0, |crew| crew.me);
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let _guard = Guard;
            let outcome = sandbox::confine_thread(&params);
            let failed = outcome.is_err();
            // Whoever waits for it tells the user.
            let told = confined.send(outcome);
            drop(confined);
            if told.is_err() || failed {
                return;
            }
            if let Err(e) = self.work() {
                log::error!("worker thread {number} cannot go on: {e}");
                // Its flows would hang without a word.
                std::process::exit(1);
            }
        })
    }

    fn work(self) -> io::Result<()> {
        let Recruit { seat, link, common } = self;
        let forwarding = Forwarding::nothing();
        let parts = Parts { link, common, listeners: Vec::new(), forwarding, local: None, neighbours: None };
        let mut engine = Engine::new(parts, seat)?;
        loop {
            match engine.run(|_| Next::Continue) {
                Ok(()) => return Ok(()),
                // The first worker sees it too, and knows what that means.
                Err(e) if engine.unplug() => log::debug!("the guest's network interface is gone: {e}"),
                Err(e) => return Err(e),
            }
        }
    }
}

/// Ends the process if its thread panics, as a panic of the main thread does.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

/// The threads that run; those that have not ended when this is dropped are told to, and waited for.
#[derive(Default)]
pub(super) struct Workers(Vec<thread::JoinHandle<()>>);

impl Engine {
    /// Starts the other workers. They are confined when this returns.
    ///
    /// # Errors
    /// The kernel's: no memory for one more thread, or no permission; or that of [`sandbox::confine_thread`].
    pub fn start_workers(&mut self, recruits: Vec<Recruit>, params: sandbox::Params) -> anyhow::Result<()> {
        let (sender, outcomes) = channel();
        for recruit in recruits {
            let thread = recruit.start(params, sender.clone());
            self.workers.0.push(thread.context("cannot start the worker threads (option '--threads' asks for fewer)")?);
        }
        drop(sender);
        Ok(outcomes.into_iter().collect::<Result<(), _>>()?)
    }

    /// Ends the other workers. What they had is closed when this returns.
    pub fn stop_workers(&mut self) {
        if let Some(crew) = self.crew.as_ref().filter(|crew| crew.me == 0) {
            crew.others().for_each(|worker| crew.send(worker, Message::Stop));
        }
        // One that panicked has ended the process.
        self.workers.0.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_workers();
    }
}
