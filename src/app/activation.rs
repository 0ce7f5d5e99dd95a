//! Sockets at which a service manager listens for us: the machine's, and the control socket.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};

use crate::config::{Config, Control, Mode, Personality, Plug};
use crate::sys::service::{self, Passed};

/// Adopted before the inherited descriptors are closed.
#[derive(Default)]
pub(super) struct Activated {
    pub machine: Option<UnixListener>,
    pub control: Option<UnixListener>,
    /// The names of those that nobody takes, one after the other.
    pub unused: Option<String>,
}

impl Activated {
    /// # Errors
    /// What was passed is not what it has to be, or the command line asks for something else.
    pub fn adopt(config: &Config) -> anyhow::Result<Activated> {
        // Under other names we are a part of a program that takes its sockets itself.
        if config.personality != Personality::Spelt {
            return Ok(Activated::default());
        }
        let all = service::passed().map_err(|count| {
            anyhow!("'{count}' is no number of sockets (LISTEN_FDS): the service manager, or who plays it, sets it")
        })?;
        let (control, rest): (Vec<Passed>, Vec<Passed>) =
            all.into_iter().partition(|p| p.name.as_deref() == Some(CONTROL));
        let control = match &*control {
            [] => None,
            [one] => Some(control_socket(one, config)?),
            _ => bail!(
                "the service manager passes {} sockets that are called '{CONTROL}' (LISTEN_FDS): one is enough",
                control.len()
            ),
        };
        match &config.mode {
            Mode::Machine { plug: Plug::Socket(path), .. } => {
                let chosen = choose(&rest).map_err(anyhow::Error::msg)?;
                if let (Some(_), Some(path)) = (chosen, path) {
                    return Err(contradiction(&format!("--socket {}", path.display())));
                }
                Ok(Activated { machine: chosen.map(listener).transpose()?, control, unused: None })
            }
            _ => Ok(Activated { machine: None, control, unused: (!rest.is_empty()).then(|| names(&rest)) }),
        }
    }

    /// Path of the control socket, if it has one.
    pub fn control_path(&self) -> Option<PathBuf> {
        self.control.as_ref().and_then(path_of)
    }
}

/// Where it listens, if that has a name among the files.
pub(super) fn path_of(listener: &UnixListener) -> Option<PathBuf> {
    listener.local_addr().ok().and_then(|a| a.as_pathname().map(PathBuf::from))
}

fn control_socket(passed: &Passed, config: &Config) -> anyhow::Result<UnixListener> {
    match &config.control {
        Control::Default => listener(passed.fd),
        Control::At(path) => Err(contradiction(&format!("--control {}", path.display()))),
        Control::Off => Err(contradiction("--control none")),
    }
}

fn contradiction(option: &str) -> anyhow::Error {
    anyhow!(
        "the service manager passes a socket (LISTEN_FDS), and option '{option}' asks for another: leave one of them out"
    )
}

fn listener(fd: i32) -> anyhow::Result<UnixListener> {
    let listener = service::listener(fd).map_err(|wrong| {
        anyhow!(
            "descriptor {fd}, which the service manager passes (LISTEN_FDS), {wrong}: the .socket file needs \
             ListenStream= with the path of a UNIX socket, and no Accept=yes"
        )
    })?;
    listener.set_nonblocking(true).context("cannot use the socket from the service manager")?;
    Ok(listener)
}

/// The machine's among those that were passed: what is called so, or one without a name. The error is a sentence.
fn choose(all: &[Passed]) -> Result<Option<i32>, String> {
    let named: Vec<i32> = all.iter().filter(|p| p.name.as_deref() == Some(MACHINE)).map(|p| p.fd).collect();
    match (&*named, all) {
        (_, []) => Ok(None),
        ([fd], _) | ([], [Passed { fd, name: None }]) => Ok(Some(*fd)),
        _ => Err(format!(
            "the service manager passes sockets that are called {} (LISTEN_FDS), and 'spelt vm' needs one that is called \
             '{MACHINE}': say FileDescriptorName={MACHINE} in its .socket file, and in no other",
            names(all)
        )),
    }
}

fn names(all: &[Passed]) -> String {
    let names: Vec<&str> = all.iter().map(|p| p.name.as_deref().unwrap_or("(no name)")).collect();
    names.join(", ")
}

const MACHINE: &str = "vm";
const CONTROL: &str = "control";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_socket_is_chosen_by_name() {
        let of = |names: &[&str]| {
            let name = |n: &&str| Some((*n).to_owned()).filter(|n| !n.is_empty());
            let all: Vec<Passed> = (3..).zip(names).map(|(fd, n)| Passed { fd, name: name(n) }).collect();
            choose(&all)
        };
        assert_eq!(
            (of(&[]), of(&[""]), of(&["vm"]), of(&["a", "vm", ""])),
            (Ok(None), Ok(Some(3)), Ok(Some(3)), Ok(Some(4)))
        );
        for names in [&["http"][..], &["", ""], &["vm", "vm"], &["a", ""]] {
            assert!(of(names).unwrap_err().contains("FileDescriptorName=vm"), "{names:?}");
        }
    }
}
