//! The parent's side of `spelt run`.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;

use super::{Broker, Error, Interface, Namespace, Tap, Target, Upkeep, init, report};
use crate::sys::process::{Cloned, Fork, OpenFiles};
use crate::sys::{fdpass, netns, pidfd, process};

/// What to start, and in which surroundings.
#[derive(Clone, Debug)]
pub struct Spawn {
    pub interface: Interface,
    /// Program and arguments. Empty: the user's shell, as a login shell.
    pub command: Vec<OsString>,
    /// `None`: the program's name, a hyphen, and the host's.
    pub hostname: Option<String>,
    /// Contents of a file to be seen as /etc/resolv.conf inside.
    pub resolv_conf: Option<Vec<u8>>,
    /// The interface may be changed later: see [`Tap::upkeep`].
    pub upkeep: bool,
    /// A user namespace, in which the command is root. Without one only root can do this, of the host or of the user
    /// namespace this process is in.
    pub user_namespace: bool,
    /// A PID namespace and a /proc of its own.
    pub pid_namespace: bool,
    /// What the user calls this program.
    pub program: &'static str,
    /// Limit the command gets, if this process changed its own before.
    pub open_files: Option<OpenFiles>,
}

/// The process that is PID 1 inside.
#[derive(Debug)]
pub struct Child {
    process: Cloned,
    channel: Option<OwnedFd>,
    user_namespace: bool,
    upkeep: bool,
    status: Option<u8>,
}

/// Starts the namespaces; returns while the child still sets them up. To be called while this process has one thread.
///
/// # Errors
/// When the kernel refuses the namespaces, with what to do about it.
pub fn spawn(what: &Spawn) -> Result<Child, Error> {
    let (ours, theirs) = fdpass::pair().map_err(Error::io("cannot make a socket pair"))?;
    let ids = init::Ids { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
    let mut flags =
        CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    flags.set(CloneFlags::CLONE_NEWUSER, what.user_namespace);
    flags.set(CloneFlags::CLONE_NEWPID, what.pid_namespace);
    match process::clone_into(flags).map_err(|e| refused(e, what.user_namespace))? {
        Fork::Child => {
            drop(ours);
            init::main(what, ids, theirs)
        }
        Fork::Parent(process) => Ok(Child {
            process,
            channel: Some(ours),
            user_namespace: what.user_namespace,
            upkeep: what.upkeep,
            status: None,
        }),
    }
}

impl Child {
    /// Waits until the namespace is set up and takes over the tap. Call once.
    ///
    /// # Errors
    /// What went wrong inside.
    pub fn tap(&mut self) -> Result<Tap, Error> {
        let channel = self.channel.as_ref().ok_or_else(|| Error::Failed("the command runs already".into()))?;
        let mut tap = report::recv(channel.as_fd())?;
        if self.upkeep {
            let own = channel.try_clone().map_err(Error::io("cannot keep the channel into the namespace"))?;
            tap.upkeep = Some(Upkeep::new(own, None)?);
        }
        Ok(tap)
    }

    /// Starts a process inside that makes sockets for us, as [`Namespace::broker`]. To be called when [`Child::tap`] has
    /// returned: before, the child may have no id maps yet.
    ///
    /// # Errors
    /// As [`Namespace::broker`].
    pub fn broker<E: std::fmt::Display>(&self, confine: impl FnOnce() -> Result<(), E>) -> Result<Broker, Error> {
        Broker::start(|| self.enter(), confine)
    }

    /// In a fork of ours. /proc may show another PID namespace's processes, so that comes second.
    fn enter(&self) -> Result<(), Error> {
        let mut which = CloneFlags::CLONE_NEWNET;
        which.set(CloneFlags::CLONE_NEWUSER, self.user_namespace);
        match netns::join_of_process(&self.process.pidfd, which) {
            // Kernels before 5.8 take no pidfd.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                Namespace::open(&Target::Pid(self.process.pid), None, !self.user_namespace)?.enter()
            }
            joined => joined.map_err(Error::io("cannot join the namespaces of the command")),
        }
    }

    /// Starts the command.
    ///
    /// # Errors
    /// If the child is gone.
    pub fn go(&mut self) -> Result<(), Error> {
        match self.channel.take() {
            Some(channel) => fdpass::send(channel.as_fd(), init::GO, None)
                .map_err(Error::io("the process inside the namespace is gone before it could start the command")),
            None => Ok(()),
        }
    }

    /// Readable when the child, and with it everything inside, has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Sends a signal to the command, by way of PID 1. SIGKILL ends everything inside.
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn signal(&self, number: i32) -> std::io::Result<()> {
        pidfd::send_signal(&self.process.pidfd, number)
    }

    /// The command's exit status as a shell reports it (128+N for signal N), once it has ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_wait(&mut self) -> std::io::Result<Option<u8>> {
        if self.status.is_none() {
            self.status = process::reap(Some(self.process.pid))?.map(|ended| ended.status);
        }
        Ok(self.status)
    }
}

fn refused(e: std::io::Error, user_namespace: bool) -> Error {
    let hint = match e.raw_os_error() {
        Some(libc::EPERM) if !user_namespace => "without a user namespace (`--netns-only`) only root may make them",
        Some(libc::EPERM | libc::EACCES) => {
            "user namespaces are forbidden here: see the sysctls kernel.unprivileged_userns_clone and \
             kernel.apparmor_restrict_unprivileged_userns, or the container's seccomp profile; they need a user that is \
             mapped in the present one, and no chroot"
        }
        Some(libc::ENOSPC | libc::EUSERS) => {
            "a limit in /proc/sys/user (max_user_namespaces, max_net_namespaces, ...) is reached"
        }
        Some(libc::EINVAL) => "the kernel was built without one of the namespaces user, net, pid, mnt, ipc, uts",
        _ => "no more processes or memory",
    };
    Error::Failed(format!("cannot make new namespaces: {e}: {hint}"))
}
