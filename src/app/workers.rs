//! The threads of the workers beside the first one, which is the main thread.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::{io, thread};

use anyhow::Context;

use super::crew::{Message, Seat};
use super::engine::{Common, Engine, Next, Parts};
use super::ports::Forwarding;
use super::requests::Servant;
use crate::link::Link;
use crate::sandbox;
use crate::sys::faults;

/// What a worker beside the first begins with.
pub struct Recruit {
    pub seat: Seat,
    pub link: Link,
    pub common: Common,
}

impl Recruit {
    /// Starts the thread, which first of all gives up what is not needed, says how that went, and waits for `go`. It ends when
    /// the first worker says so; if it fails, so does the process.
    fn start(
        self,
        params: sandbox::Params,
        confined: Sender<Result<(), sandbox::Error>>,
        go: Receiver<()>,
    ) -> io::Result<JoinHandle<()>> {
        let number = self.seat.crew.as_ref().map_or(0, |crew| crew.me);
        let work = move || {
            if let Err(e) = self.work() {
                log::error!(worker = number; "worker thread {number} cannot go on: {e}");
                // Its flows would hang without a word.
                std::process::exit(1);
            }
        };
        start(format!("worker-{number}"), work, params, confined, go)
    }

    fn work(self) -> io::Result<()> {
        let Recruit { seat, link, common } = self;
        let forwarding = Forwarding::nothing();
        let parts =
            Parts { link, common, listeners: Vec::new(), forwarding, local: None, neighbours: None, following: None };
        let mut engine = Engine::new(parts, seat)?;
        faults::begin();
        loop {
            match engine.run(|_| Next::Continue) {
                Ok(()) => {
                    faults::end();
                    return Ok(());
                }
                // The first worker sees it too, and knows what that means.
                Err(e) if engine.unplug() => log::debug!("the guest's network interface is gone: {e}"),
                Err(e) => return Err(e),
            }
        }
    }
}

/// Starts a thread that, before it works, is confined, says how that went, and waits for `go`.
fn start(
    name: String,
    work: impl FnOnce() + Send + 'static,
    params: sandbox::Params,
    confined: Sender<Result<(), sandbox::Error>>,
    go: Receiver<()>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(move || {
        let _guard = Guard;
        // Whoever waits for it tells the user.
        let told = confined.send(sandbox::confine_thread(&params));
        drop(confined);
        if told.is_ok() && go.recv().is_ok() {
            work();
        }
    })
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

/// The threads that run, and what those wait for that do not serve the guest yet.
#[derive(Default)]
pub(super) struct Workers {
    threads: Vec<JoinHandle<()>>,
    go: Vec<Sender<()>>,
}

impl Engine {
    /// Starts the other workers, and a thread for each of the `servants`. They are confined when this returns, and wait
    /// for [`Engine::let_workers_go`]: they share our memory, so none may serve the guest while any thread has rights left.
    ///
    /// # Errors
    /// The kernel's: no memory for one more thread, or no permission; or that of [`sandbox::confine_thread`].
    pub(super) fn start_workers(
        &mut self,
        recruits: Vec<Recruit>,
        servants: Vec<Servant>,
        params: sandbox::Params,
    ) -> anyhow::Result<()> {
        let params = sandbox::Params { lacks: params.lacks.told(), ..params };
        let (sender, outcomes) = channel();
        for recruit in recruits {
            let (go, wait) = channel();
            let thread = recruit.start(params, sender.clone(), wait);
            let thread = thread.context("cannot start the worker threads (option '--threads' asks for fewer)")?;
            self.workers.threads.push(thread);
            self.workers.go.push(go);
        }
        for servant in servants {
            let (go, wait) = channel();
            let name = servant.name;
            // It holds nothing that anybody waits for, and ends with the process.
            start(name.into(), move || servant.work(), params, sender.clone(), wait)
                .with_context(|| format!("cannot start the thread '{name}'"))?;
            self.workers.go.push(go);
        }
        drop(sender);
        Ok(outcomes.into_iter().collect::<Result<(), _>>()?)
    }

    /// All threads are confined: the other workers begin.
    pub fn let_workers_go(&mut self) {
        for go in self.workers.go.drain(..) {
            // One that has ended has said why.
            let _ = go.send(());
        }
    }

    /// Ends the other workers. What they had is closed when this returns.
    fn stop_workers(&mut self) {
        if let Some(crew) = self.crew.as_ref().filter(|crew| crew.me == 0) {
            crew.others().for_each(|worker| crew.send(worker, Message::Stop));
        }
        self.workers.go.clear();
        // One that panicked has ended the process.
        self.workers.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_workers();
    }
}
