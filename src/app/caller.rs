//! How whoever started us hears that all is ready, and tells us to end: by descriptors, or as a service manager.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use anyhow::Context;

use crate::config::{Config, Mode, Personality, Plug, Target};
use crate::logging;
use crate::sys::process::{self, Daemon};
use crate::sys::service::{self, Notifier};

/// Adopted before the other inherited descriptors are closed.
#[derive(Default)]
pub struct Caller {
    ready: Option<OwnedFd>,
    /// Its other end is closed when we are to end.
    pub exit: Option<OwnedFd>,
    manager: Notifier,
    /// What a service manager shows of us when all is ready.
    status: String,
}

impl Caller {
    /// # Errors
    /// A descriptor that is not open.
    pub fn adopt(config: &Config) -> anyhow::Result<Caller> {
        let adopt = |fd: Option<i32>, option| {
            let adopted = fd.map(|fd| {
                process::adopt_descriptor(fd)
                    .with_context(|| format!("descriptor {fd} (option '{option}') was not left open by the caller"))
            });
            adopted.transpose()
        };
        Ok(Caller {
            ready: adopt(config.ready_fd, "--ready-fd")?,
            exit: adopt(config.exit_fd, "--exit-fd")?,
            manager: Notifier::default(),
            status: status(config),
        })
    }

    /// Looks for a service manager, and removes what it has told from the environment: a command is not the service. To be
    /// called when there is a log, and nothing else of the manager's is needed, while this process has one thread.
    pub fn meet_manager(&mut self, config: &Config) {
        // Under other names we are a part of a program, Podman say, that has the variable too and tells for itself.
        if config.personality != Personality::Spelt {
            return;
        }
        self.manager = Notifier::open().unwrap_or_else(|(address, e)| {
            let address = address.to_string_lossy();
            log::warn!("cannot tell the service manager at '{address}' (NOTIFY_SOCKET) how things are: {e}");
            Notifier::default()
        });
        service::forget();
    }

    /// Says that this process, and not its parent, which is about to end, is the service.
    pub fn in_background(&self) {
        self.tell_manager(&format!("MAINPID={}", std::process::id()));
    }

    /// Says that all is ready, once, and closes the descriptor.
    pub fn ready(&mut self) {
        self.tell_manager(&format!("READY=1\nSTATUS={}", self.status));
        if let Some(fd) = self.ready.take()
            && let Err(e) = File::from(fd).write_all(b"1")
        {
            log::warn!("cannot tell the caller that all is ready (option '--ready-fd'): {e}");
        }
    }

    /// Says that the end has begun.
    pub fn ending(&self) {
        self.tell_manager("STOPPING=1\nSTATUS=Ending");
    }

    fn tell_manager(&self, lines: &str) {
        if let Err(e) = self.manager.tell(lines) {
            log::warn!("cannot tell the service manager (NOTIFY_SOCKET): {e}");
        }
    }
}

/// Goes on in another process, if that is wanted; the caller hears of it when all is ready. To be called while this process has
/// one thread.
///
/// # Errors
/// There is no process to be had, or the log cannot be written to.
pub fn to_background(config: &Config) -> anyhow::Result<Option<Daemon>> {
    if config.foreground {
        return Ok(None);
    }
    let daemon = process::daemonize().context("cannot go to the background")?;
    logging::forked().map_err(anyhow::Error::msg)?;
    Ok(Some(daemon))
}

/// A short sentence, on one line.
fn status(config: &Config) -> String {
    let sentence = match &config.mode {
        Mode::Spawn { command, .. } => match command.first() {
            Some(program) => format!("Serving the command {}", program.to_string_lossy()),
            None => "Serving a shell".into(),
        },
        Mode::Attach { target: Target::Pid(pid), .. } => format!("Serving the namespace of process {pid}"),
        Mode::Attach { target: Target::Path(path), .. } => format!("Serving the namespace {}", path.display()),
        Mode::Attach { target: Target::Name(name), .. } => format!("Serving the namespace {name}"),
        Mode::Attach { target: Target::Descriptor(fd), .. } => format!("Serving the namespace of descriptor {fd}"),
        Mode::Machine { plug: Plug::Socket(Some(path)), .. } => {
            format!("Serving virtual machines at {}", path.display())
        }
        Mode::Machine { .. } => "Serving virtual machines".into(),
    };
    // A line's end in a name would begin another assignment.
    sentence.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Command};

    #[test]
    fn the_status_is_one_line_that_says_who_is_served() {
        let of = |arguments: &[&str]| {
            let parsed = config::from_args("spelt".as_ref(), arguments.iter().map(Into::into).collect()).unwrap();
            let (Command::Run(config) | Command::Attach(config) | Command::Machine(config)) = parsed else {
                panic!("no configuration")
            };
            status(&config)
        };
        assert_eq!(of(&["run"]), "Serving a shell");
        assert_eq!(of(&["run", "--", "a\nREADY=0", "b"]), "Serving the command a?READY=0");
        assert_eq!(of(&["attach", "12"]), "Serving the namespace of process 12");
        assert_eq!(of(&["attach", "blue"]), "Serving the namespace blue");
        assert_eq!(of(&["vm"]), "Serving virtual machines");
        assert_eq!(of(&["vm", "-s", "/run/x"]), "Serving virtual machines at /run/x");
    }
}
