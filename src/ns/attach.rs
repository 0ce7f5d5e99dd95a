//! An existing namespace.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::{Error, Interface, Tap, Watch};

/// How the user names a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A process in it.
    Pid(i32),
    /// A namespace file: bind-mounted, `/proc/PID/ns/net`, `/proc/.../fd/N`.
    Path(PathBuf),
    /// As `ip netns` knows it.
    Name(String),
}

/// A namespace held open.
#[derive(Debug)]
pub struct Namespace {
    net: OwnedFd,
    user: Option<OwnedFd>,
}

impl Namespace {
    /// Opens `target` and finds the user namespace to enter first: `userns` if given, none with `netns_only`, else the
    /// owner of the network namespace unless that is ours.
    ///
    /// # Errors
    /// When there is no such namespace, or it may not be opened.
    pub fn open(_target: &Target, _userns: Option<&Path>, _netns_only: bool) -> Result<Namespace, Error> {
        Err(Error::Failed("todo".into()))
    }

    /// Makes the tap inside. To be called while this process has one thread.
    ///
    /// # Errors
    /// What went wrong inside.
    pub fn attach(&self, _interface: &Interface) -> Result<Tap, Error> {
        let _ = (&self.net, &self.user);
        Err(Error::Failed("todo".into()))
    }

    /// Notices when the namespace goes.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn watch(&self) -> Result<Watch, Error> {
        Err(Error::Failed("todo".into()))
    }
}
