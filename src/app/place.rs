//! Where the guest is to be: what is opened while paths and descriptors mean what the caller meant.

use std::os::unix::net::UnixListener;

use anyhow::{Context, bail};
use nix::sched::CloneFlags;

use super::machine::Plugged;
use crate::config::{Config, Mode, Target};
use crate::ns;
use crate::sys::{netns, process};

/// Where the guest is to be.
pub(super) enum Place {
    /// In namespaces of its own, below this user namespace's root if there is one.
    New(Option<ns::UserNamespace>),
    Given(ns::Namespace),
    /// In a virtual machine; the first that comes, and no other, if so.
    Machine(Plugged, bool),
}

impl Place {
    /// `passed`: a machine's socket, from a service manager.
    ///
    /// # Errors
    /// There is no such place.
    pub fn open(config: &Config, passed: Option<UnixListener>) -> anyhow::Result<Place> {
        Ok(match &config.mode {
            Mode::Spawn { userns, .. } => Place::New(userns.as_deref().map(ns::UserNamespace::open).transpose()?),
            Mode::Attach { target, userns, netns_only } => {
                inherited_namespaces(config)?;
                Place::Given(ns::Namespace::open(&ns_target(target), userns.as_deref(), *netns_only)?)
            }
            Mode::Machine { plug, one_off } => Place::Machine(Plugged::open(plug, config, passed)?, *one_off),
        })
    }
}

/// That the descriptors which are said to be namespaces are.
///
/// # Errors
/// Which is not.
pub(super) fn inherited_namespaces(config: &Config) -> anyhow::Result<()> {
    let netns = match config.mode {
        Mode::Attach { target: Target::Descriptor(fd), .. } => Some(fd),
        _ => None,
    };
    let network = (netns, "--netns-fd", CloneFlags::CLONE_NEWNET, "network namespace: open /proc/PID/ns/net");
    let user = (config.userns_fd, "--userns-fd", CloneFlags::CLONE_NEWUSER, "user namespace: open /proc/PID/ns/user");
    for (fd, option, kind, what) in [network, user] {
        let Some(fd) = fd else { continue };
        let own = process::adopt_descriptor(fd)
            .with_context(|| format!("descriptor {fd} (option '{option}') was not left open by the caller"))?;
        if netns::kind(&own) != Some(kind) {
            bail!("descriptor {fd} (option '{option}') is no {what}");
        }
    }
    Ok(())
}

pub(super) fn ns_target(target: &Target) -> ns::Target {
    match target {
        Target::Pid(pid) => ns::Target::Pid(*pid),
        Target::Path(path) => ns::Target::Path(path.clone()),
        Target::Name(name) => ns::Target::Name(name.clone()),
        // Opened once more: what becomes of the caller's own is no affair of ours.
        Target::Descriptor(fd) => ns::Target::Path(format!("/proc/self/fd/{fd}").into()),
    }
}
