//! The sockets at which other programs ask and change things while we run, and the threads that serve them.

use std::io;
use std::os::unix::net::UnixListener;

use super::captures;
use super::control::Controller;
use super::desk::Clerk;
use super::follow::Shown;
use super::tables::{self, Changer};
use crate::config::Config;
use crate::control::{pesto, place, service};
use crate::link::recording::{RECORDINGS_MAX, Recordings};
use crate::sys::process;

/// Opened while there are files.
pub(super) struct Doors {
    /// In JSON.
    ours: Option<UnixListener>,
    /// In the words of pesto.
    pesto: Option<UnixListener>,
}

impl Doors {
    /// `passed`: what a service manager listens at for us.
    ///
    /// # Errors
    /// The kernel's, for a path that the user gave.
    pub fn open(config: &Config, passed: Option<UnixListener>) -> anyhow::Result<Doors> {
        let ours = passed.map_or_else(|| place::listen(&config.control), |passed| Ok(Some(passed)))?;
        Ok(Doors { ours, pesto: tables::listen(config)? })
    }

    /// Descriptors that they and their clients need, if `config` asks for any. `passed`: a service manager does.
    pub fn descriptors(config: &Config, passed: bool) -> usize {
        let ours = if passed || place::is_wanted(&config.control) { OURS } else { 0 };
        let pesto = if config.conf_path.is_some() { pesto::DESCRIPTORS } else { 0 };
        let bells = if ours + pesto > 0 { usize::from(Config::QUEUES_MAX) } else { 0 };
        // Where there are few, flows need them more.
        (ours + pesto + bells).min(process::open_files_max() / 8)
    }

    pub fn is_any(&self) -> bool {
        self.ours.is_some() || self.pesto.is_some()
    }

    /// What the threads begin with. `clerks`: of every worker; `shown`: the effective configuration; `inside`: sockets
    /// can be made in the guest's namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn servants(
        self,
        config: &Config,
        interface: &str,
        clerks: Vec<Clerk>,
        shown: Shown,
        inside: bool,
    ) -> io::Result<(Vec<Servant>, Option<Recordings>)> {
        let (mut servants, mut recordings) = (Vec::new(), None);
        if let Some((listener, clerk)) = self.pesto.zip(clerks.first().cloned()) {
            let changer = Changer::new(listener, config, clerk, inside)?;
            servants.push(Servant { name: "pesto", socket: "--conf-path", serve: Box::new(|| changer.run()) });
        }
        if let Some(listener) = self.ours {
            let (archive, writer) = captures::open(config, interface)?;
            recordings = Some(archive.recordings.clone());
            let controller = Controller::new(listener, config, (clerks, archive), shown)?;
            servants.push(Servant { name: "captures", socket: "--control", serve: Box::new(|| writer.run()) });
            servants.push(Servant { name: "control", socket: "--control", serve: Box::new(|| controller.run()) });
        }
        Ok((servants, recordings))
    }
}

/// Clients of our socket, what each of them may have sent, and one that is turned away; the socket, its loop; captures and what
/// wakes their writer.
const OURS: usize = service::CLIENTS_MAX * 2 + 1 + 3 + RECORDINGS_MAX + 1;

/// One thread's work, for as long as the process lives.
pub(super) struct Servant {
    /// Of the thread.
    pub name: &'static str,
    socket: &'static str,
    serve: Box<dyn FnOnce() -> io::Result<()> + Send>,
}

impl Servant {
    pub fn work(self) {
        if let Err(e) = (self.serve)() {
            log::error!("thread '{}' for the socket of '{}' cannot go on: {e}", self.name, self.socket);
        }
    }
}
