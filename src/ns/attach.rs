//! An existing namespace.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::wait::waitpid;

use super::upkeep::{self, Keeper};
use super::{Broker, Error, Interface, Tap, Upkeep, Watch, configure, report};
use crate::sys::process::Fork;
use crate::sys::{fdpass, netns, process, signal};

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
    /// To be joined first.
    user: Option<OwnedFd>,
    watch: Watch,
    /// For messages.
    name: String,
}

impl Namespace {
    /// Opens `target` and finds the user namespace to enter first: `userns` if given, none with `netns_only`, else the
    /// owner of the network namespace. Our own is never entered: we are in it. To be called before descriptors 0–2 or the
    /// session change, which paths under /proc/self may mean.
    ///
    /// # Errors
    /// When there is no such namespace, or it may not be opened.
    pub fn open(target: &Target, userns: Option<&Path>, netns_only: bool) -> Result<Namespace, Error> {
        let path = target.path();
        // First: a process that ends meanwhile, and whose number is taken by another, is noticed at the end.
        let mut watch = match target {
            Target::Pid(pid) => Watch::process(*pid).map_err(|e| no_process(*pid, &e))?,
            _ => Watch::path(&path).map_err(|e| not_opened(target, &path, &e))?,
        };
        let net = open_ns(&path).map_err(|e| not_opened(target, &path, &e))?;
        if netns::kind(&net) != Some(CloneFlags::CLONE_NEWNET) {
            return Err(Error::Failed(format!("`{}` is not a network namespace", path.display())));
        }
        // A tap here would be one more interface of the host's, its traffic ours and led back to it.
        if netns::is_own_net_ns(&net) {
            let advice = "give a process, path or name of another one";
            return Err(Error::Failed(format!(
                "the network namespace {target} is the one this program itself runs in: {advice}"
            )));
        }
        if watch.is_gone() {
            return Err(Error::Failed(format!("the namespace {target} has just gone")));
        }
        let user = match userns {
            Some(path) => Some(open_user(path)?),
            None if netns_only => None,
            // Where the owner is neither ours nor below ours we cannot enter it; joining says so.
            None => netns::owner(&net).ok(),
        };
        let user = user.filter(|u| !netns::is_own_user_ns(u));
        Ok(Namespace { net, user, watch, name: target.to_string() })
    }

    /// Makes the tap inside, and if `confine` is given, stays there to change it: that is how it gives up its privileges, all
    /// but CAP_NET_ADMIN. To be called while this process has one thread.
    ///
    /// # Errors
    /// What went wrong inside.
    pub fn attach<E>(
        &self,
        interface: &Interface,
        confine: Option<impl FnOnce() -> Result<(), E>>,
    ) -> Result<Tap, Error> {
        let (ours, theirs) = fdpass::pair().map_err(Error::io("cannot make a socket pair"))?;
        match process::fork().map_err(Error::io("cannot start a process to set up the namespace"))? {
            Fork::Child => {
                // The logger may be a connection that parent and child would share.
                log::set_max_level(log::LevelFilter::Off);
                let hidden = process::hide_from_tracers().map_err(Error::io("cannot switch off tracing"));
                let outcome = hidden.and_then(|()| self.enter()).and_then(|()| configure::make(interface));
                let sent = report::send(theirs.as_fd(), &outcome);
                let made = outcome.is_ok() && sent.is_ok();
                // Only the parent holds the tap from here on.
                drop(outcome);
                if let Some(confine) = confine.filter(|_| made) {
                    keep_up(theirs, interface, confine);
                }
                process::exit_now(i32::from(!made))
            }
            Fork::Parent(child) => {
                drop(theirs);
                let made = report::recv(ours.as_fd());
                if made.is_ok() && confine.is_some() {
                    let upkeep = Some(Upkeep::new(ours, Some(child.as_raw()))?);
                    return made.map(|tap| Tap { upkeep, ..tap });
                }
                // A child that believes it has made it would wait for our end.
                drop(ours);
                while waitpid(child, None) == Err(nix::Error::EINTR) {}
                made
            }
        }
    }

    /// Starts a process inside that makes sockets for us; `confine` is how it gives up its privileges there, all but
    /// CAP_NET_BIND_SERVICE. To be called while this process has one thread, and after it went to the background.
    ///
    /// # Errors
    /// When there is no process to be had; [`Broker::ready`] tells the rest.
    pub fn broker<E: std::fmt::Display>(&self, confine: impl FnOnce() -> Result<(), E>) -> Result<Broker, Error> {
        Broker::start(|| self.enter(), confine)
    }

    /// True if what enters stays in this process's user namespace, where users have the numbers they have here.
    pub fn keeps_user_namespace(&self) -> bool {
        self.user.is_none()
    }

    /// True if the end is noticed only by looking, which another user may not be allowed.
    pub fn is_polled(&self) -> bool {
        self.watch.period().is_some()
    }

    /// Notices when the namespace goes.
    pub fn into_watch(self) -> Watch {
        self.watch
    }

    pub(super) fn enter(&self) -> Result<(), Error> {
        if let Some(user) = &self.user {
            join_user(user, &format!("of {}", self.name))?;
        }
        netns::join_net(&self.net).map_err(|e| {
            let hint = match e.raw_os_error() {
                Some(libc::EPERM) => {
                    ": it belongs to another user namespace, where this process has no privilege; `--userns PATH` names \
                     the one to enter, and root may enter any"
                }
                _ => "",
            };
            Error::Failed(format!("cannot join the network namespace {}: {e}{hint}", self.name))
        })
    }
}

/// What the child does that has made the interface and stays. Returns at the end of its channel.
fn keep_up<E>(channel: OwnedFd, interface: &Interface, confine: impl FnOnce() -> Result<(), E>) {
    // The terminal's keys are for the parent to act on.
    let blocked = signal::block_all();
    // A pipe among the standard streams would keep its reader waiting after we have let go of it.
    process::let_go_of_std_fds();
    process::close_inherited(Some(channel.as_raw_fd()));
    let _ = prctl::set_name(c"spelt-upkeep");
    let Ok(mut keeper) = Keeper::new(interface, None) else { return };
    // The parent hears of a failure when it asks for something, and tells it then.
    if blocked.is_ok() && confine().is_ok() {
        while upkeep::serve(&channel, &mut keeper) {}
    }
}

/// An existing user namespace, for a command with a network namespace of its own.
#[derive(Debug)]
pub struct UserNamespace {
    fd: OwnedFd,
    name: String,
}

impl UserNamespace {
    /// # Errors
    /// When there is none, or it may not be opened.
    pub fn open(path: &Path) -> Result<UserNamespace, Error> {
        Ok(UserNamespace { fd: open_user(path)?, name: format!("`{}`", path.display()) })
    }

    /// This process becomes one of those inside, for good, with all capabilities there and none elsewhere. To be called
    /// while it has one thread.
    ///
    /// # Errors
    /// When it belongs to somebody else, or is our own.
    pub fn enter(&self) -> Result<(), Error> {
        join_user(&self.fd, &self.name)
    }
}

fn join_user(user: &OwnedFd, name: &str) -> Result<(), Error> {
    netns::join_user(user).map_err(|e| {
        let hint = match e.raw_os_error() {
            Some(libc::EINVAL) => "it is the one this program is in: leave out `--userns`",
            _ => "it must be run by the user that made that namespace, or by root",
        };
        Error::Failed(format!("cannot join the user namespace {name}: {e}: {hint}"))
    })
}

impl Target {
    /// As on a command line: digits are a process, what has a slash is a path, anything else a name.
    pub fn parse(text: &OsStr) -> Target {
        match text.to_str().map(str::parse::<i32>) {
            Some(Ok(pid)) if pid > 0 => Target::Pid(pid),
            Some(_) if !text.as_bytes().contains(&b'/') => Target::Name(text.to_string_lossy().into_owned()),
            _ => Target::Path(text.into()),
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Target::Pid(pid) => format!("/proc/{pid}/ns/net").into(),
            Target::Path(path) => path.clone(),
            Target::Name(name) => {
                let of = |dir: &str| Path::new(dir).join(name);
                // The older of the two names; usually a link.
                let (new, old) = (of("/run/netns"), of("/var/run/netns"));
                if !new.exists() && old.exists() { old } else { new }
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Pid(pid) => write!(f, "of process {pid}"),
            Target::Path(path) => write!(f, "`{}`", path.display()),
            Target::Name(name) => write!(f, "`{name}`"),
        }
    }
}

fn open_user(path: &Path) -> Result<OwnedFd, Error> {
    let user = open_ns(path)
        .map_err(|e| Error::Failed(format!("cannot open the user namespace `{}`: {e}", path.display())))?;
    if netns::kind(&user) != Some(CloneFlags::CLONE_NEWUSER) {
        return Err(Error::Failed(format!("`{}` is not a user namespace", path.display())));
    }
    Ok(user)
}

/// Non-blocking, because a path may turn out to be a pipe.
fn open_ns(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    Ok(OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

fn no_process(pid: i32, e: &io::Error) -> Error {
    Error::Failed(format!("there is no process {pid}: {e}"))
}

fn not_opened(target: &Target, path: &Path, e: &io::Error) -> Error {
    let hint = match (target, e.kind()) {
        (Target::Name(_), io::ErrorKind::NotFound) => "; `ip netns` lists those that exist",
        (Target::Pid(_), io::ErrorKind::PermissionDenied) => "; the process must be yours",
        _ => "",
    };
    Error::Failed(format!("cannot open the network namespace {target} at `{}`: {e}{hint}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_apart() {
        let parse = |s: &str| Target::parse(OsStr::new(s));
        assert_eq!(parse("4711"), Target::Pid(4711));
        assert_eq!(parse("./4711"), Target::Path("./4711".into()));
        assert_eq!(parse("/proc/1/ns/net"), Target::Path("/proc/1/ns/net".into()));
        assert_eq!(parse("blue"), Target::Name("blue".into()));
        assert_eq!(parse("-5"), Target::Name("-5".into()));
    }
}
