//! What a translator that a guest talks to does not need, taken away from it before the guest's first byte is read.
//!
//! Goals: whoever gets to run code in this process finds no files, no other processes, no shared memory, no capabilities
//! and no way to new ones; what is left is the network as the user has it, the descriptors that are open, and the system calls
//! that the work is made of.
//!
//! In order: a user namespace of its own where we have no CAP_SYS_ADMIN (its single id is the user's own, so signals to
//! our children and the parent-death signal still pass: both compare host ids); mount, IPC and UTS namespaces; an empty
//! read-only root; another identity if asked for; no new privileges; by Landlock no access to files, should one be found. Then,
//! in each thread: for children that must never come, a PID namespace; no capabilities, in no set; not dumpable, so that
//! neither ptrace nor /proc/PID/mem open this process to others of the same user; last the filter of system calls ([`table`]).
//!
//! Each stands behind the others: the filter lets nobody open files, of which there are none, and if there were, Landlock would
//! refuse. What the kernel or a container lacks is an error, a warning or a remark, as [`Lacks`] says.
//!
//! The network namespace stays: it is the host's, where our sockets belong.
//!
//! Started as root (in the initial user namespace), this process becomes `nobody` at the end: root without capabilities is
//! still the owner of half the files, peer of every socket that asks for root, and may signal every process of root's. With
//! `spelt run` it stays root: the kernel checks the sender's identity when a dying parent's signal kills the child, and the
//! child is root so that its files are. `--runas` there changes the identity before the child is made ([`become_user`]).
//!
//! Limits: Landlock's part about signals is left out where the command or the broker has to end with us, because a dying
//! parent's signal is one; nor has it a word on ports, which are for the rules of forwarding to allow. Afterwards nothing can be
//! opened by path: what is needed later (`/dev/null`, log and capture files, syslog's socket, pid file, namespace directory)
//! must be open.
//!
//! System calls, once: capget, geteuid, getegid, unshare, openat, write, close, mount, chdir, pivot_root, chroot, umount2,
//! setgroups, setresgid, setresuid, capset, prctl, seccomp, those of [`crate::sys::landlock`] and [`crate::sys::blocked`]; at
//! start openat, read, close and more of libc's name service (logins).

mod filter;
mod identity;
pub mod table;

use std::fs;
use std::io;
use std::path::PathBuf;

use caps::Capability;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};

use crate::config::{Lack, Lacks};
use crate::sys::caps::{drop_all_but, effective, raise_permitted};
use crate::sys::landlock;

pub use identity::Identity;
pub use table::Role;

/// What must stay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Params {
    /// Keep CAP_NET_BIND_SERVICE, for listeners below port 1024 that are opened later. Only of use to root.
    pub bind_low_ports: bool,
    /// Keep CAP_NET_ADMIN, to change the guest's interface inside.
    pub configure: bool,
    /// Become this user and group; for processes started as root that have no child to look after.
    pub identity: Option<Identity>,
    /// Where pivot_root is impossible (the root is the initial RAM file system), use chroot instead.
    pub chroot_fallback: bool,
    /// Whose calls the filter is to allow; `None`: no filter, for tests of the rest.
    pub role: Option<Role>,
    /// No child has to be ended, by us or by our end.
    pub alone: bool,
    /// End with the parent.
    pub ends_with_parent: bool,
    /// What may be missing.
    pub lacks: Lacks,
}

/// A mechanism that is missing. One sentence, its cause included.
#[derive(Debug, thiserror::Error)]
#[error("cannot isolate this process: {step}: {cause}{hint}")]
pub struct Error {
    pub step: &'static str,
    pub cause: io::Error,
    pub hint: &'static str,
}

/// Gives everything up. To be called once, while this process has one thread, when all that is needed is open.
///
/// # Errors
/// See [`Error`]. The process is then in between and must end.
pub fn enter(params: &Params) -> Result<(), Error> {
    enter_process(params)?;
    confine_thread(params)
}

/// Gives up all but reading beneath these directories: for a process that reads files and does nothing else.
///
/// # Errors
/// See [`Error`].
pub fn enter_to_read(params: &Params, beneath: &[PathBuf]) -> Result<(), Error> {
    params.identity.map_or(Ok(()), change_user)?;
    prctl::set_no_new_privs().map_err(fail("no_new_privs", ""))?;
    let files = landlock::give_up_files_but(beneath, params.alone);
    tolerate(params.lacks.files, files.map_err(|cause| Error { step: "Landlock", cause, hint: LANDLOCK_HINT }))?;
    finish(params)
}

/// The first half of [`enter`], after which threads can be made that have the same to give up.
///
/// # Errors
/// See [`enter`].
pub fn enter_process(params: &Params) -> Result<(), Error> {
    let mut identity = params.identity;
    let privileged = is_privileged();
    // No other user exists in a user namespace of ours.
    if let Some(user) = identity.take_if(|_| !privileged) {
        become_user(user)?;
    }
    tolerate(params.lacks.namespaces, set_apart(params, privileged))?;
    identity.map_or(Ok(()), change_user)?;
    prctl::set_no_new_privs().map_err(fail("no_new_privs", ""))?;
    let files = landlock::give_up_files(params.alone);
    tolerate(params.lacks.files, files.map_err(|cause| Error { step: "Landlock", cause, hint: LANDLOCK_HINT }))
}

/// True if no user namespace has to be made to give things up: then all users are known in there.
pub fn is_privileged() -> bool {
    effective(Capability::CAP_SYS_ADMIN)
}

/// The second half, for each thread on its own: what the kernel gives to threads, and not to processes. A thread that has
/// done this can make no others.
///
/// # Errors
/// See [`enter`].
pub fn confine_thread(params: &Params) -> Result<(), Error> {
    let children = unshare(CloneFlags::CLONE_NEWPID).map_err(fail("a new PID namespace", LIMIT_HINT));
    tolerate(params.lacks.namespaces, children)?;
    finish(params)
}

/// No capabilities, no tracing, and the filter.
fn finish(params: &Params) -> Result<(), Error> {
    let kept = [
        params.bind_low_ports.then_some(Capability::CAP_NET_BIND_SERVICE),
        params.configure.then_some(Capability::CAP_NET_ADMIN),
    ];
    let keep: Vec<Capability> = kept.into_iter().flatten().collect();
    drop_all_but(&keep).map_err(|cause| Error { step: "dropping capabilities", cause, hint: "" })?;
    prctl::set_dumpable(false).map_err(fail("switching off core dumps and tracing", ""))?;
    if params.ends_with_parent {
        // Not before: every change of credentials takes it back (prctl(2)).
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(fail("tying this process to its parent", ""))?;
    }
    let Some(role) = params.role else { return Ok(()) };
    let filtered = filter::install(role);
    tolerate(params.lacks.filter, filtered.map_err(|cause| Error { step: FILTER, cause, hint: FILTER_HINT }))
}

/// For a process that needs names of sockets, which only the host's files give: no capabilities, no new privileges, no file
/// opened (Landlock), and `role`'s system calls. It is not dumpable either.
///
/// # Errors
/// See [`Error`].
pub fn stay_among_files(role: Role, lacks: Lacks) -> Result<(), Error> {
    prctl::set_no_new_privs().map_err(fail("no_new_privs", ""))?;
    let files = landlock::give_up_files(true);
    tolerate(lacks.files, files.map_err(|cause| Error { step: "Landlock", cause, hint: LANDLOCK_HINT }))?;
    drop_all_but(&[]).map_err(|cause| Error { step: "dropping capabilities", cause, hint: "" })?;
    prctl::set_dumpable(false).map_err(fail("switching off core dumps and tracing", ""))?;
    tolerate(lacks.filter, filter::install(role).map_err(|cause| Error { step: FILTER, cause, hint: FILTER_HINT }))
}

/// Goes on without, if that is allowed.
fn tolerate(lack: Lack, outcome: Result<(), Error>) -> Result<(), Error> {
    let Err(e) = outcome else { return Ok(()) };
    match lack {
        Lack::Fatal => return Err(e),
        Lack::Warning => log::warn!("{e}; going on without"),
        Lack::Remark => log::debug!("{e}; going on without"),
    }
    Ok(())
}

/// Namespaces of our own with an empty root.
fn set_apart(params: &Params, privileged: bool) -> Result<(), Error> {
    if !privileged {
        own_user_namespace()?;
    }
    let apart = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(apart).map_err(|e| {
        let hint = if e == nix::Error::EPERM { USERNS_HINT } else { LIMIT_HINT };
        fail("new mount, IPC and UTS namespaces", hint)(e)
    })?;
    empty_root(params.chroot_fallback)
}

/// Ids stay what they are; the namespace only lends the capabilities for the next steps.
fn own_user_namespace() -> Result<(), Error> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(fail("a user namespace", USERNS_HINT))?;
    let map = || -> io::Result<()> {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
    };
    // Root needs CAP_SETFCAP to map itself. Without a map it has no name in there, and nothing else changes.
    if let Err(e) = map() {
        log::debug!("no id maps for the user namespace of this process: {e}");
    }
    Ok(())
}

/// Becomes another user for good while the rest stays, for a process started as root whose children are to be that user's
/// as well. Capabilities stay, for what only privilege can make; [`enter`] drops them.
///
/// # Errors
/// See [`Error`].
pub fn become_user(identity: Identity) -> Result<(), Error> {
    change_user(identity)?;
    // The change made this process's /proc entry root's, whose files the id maps are written to.
    prctl::set_dumpable(true).map_err(fail("making /proc/self ours", ""))
}

fn empty_root(chroot_fallback: bool) -> Result<(), Error> {
    // Nothing done here reaches the host's mounts, and nothing done there comes here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_UNBINDABLE | MsFlags::MS_REC, None::<&str>)
        .map_err(fail("making mounts private", PRIVATE_HINT))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
    let mut mounted = Err(nix::Error::ENOENT);
    for at in ["/tmp", "/run", "/proc"] {
        mounted = mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some("nr_inodes=2,nr_blocks=1,mode=0555"))
            .and_then(|()| nix::unistd::chdir(at));
        if mounted.is_ok() {
            break;
        }
    }
    mounted.map_err(fail("an empty tmpfs on /tmp, /run or /proc", ""))?;
    match nix::unistd::pivot_root(".", ".") {
        // The old root lies on top of the new one now.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).map_err(fail("unmounting the old root", ""))?,
        Err(nix::Error::EINVAL) if chroot_fallback => nix::unistd::chroot(".").map_err(fail("chroot", ""))?,
        Err(e) => return Err(fail("pivot_root", PIVOT_HINT)(e)),
    }
    nix::unistd::chdir("/").map_err(fail("entering the empty root", ""))
}

fn change_user(identity: Identity) -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    // Else the change of uid would empty the permitted set before the choice of what to keep.
    prctl::set_keepcaps(true).map_err(fail("PR_SET_KEEPCAPS", ""))?;
    match nix::unistd::setgroups(&[]) {
        // In a user namespace of a user's that call is given up for the right to map groups (user_namespaces(7)).
        Ok(()) | Err(nix::Error::EPERM) => {}
        Err(e) => return Err(fail("dropping supplementary groups", "")(e)),
    }
    nix::unistd::setresgid(gid, gid, gid).map_err(fail("changing the group", ID_HINT))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(fail("changing the user", ID_HINT))?;
    raise_permitted().map_err(|cause| Error { step: "keeping capabilities", cause, hint: "" })
}

fn fail(step: &'static str, hint: &'static str) -> impl FnOnce(nix::Error) -> Error {
    move |e| Error { step, cause: e.into(), hint }
}

const USERNS_HINT: &str = ": user namespaces are forbidden or used up: see the sysctls user.max_user_namespaces, \
                           kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns";
const LANDLOCK_HINT: &str = ": it needs Linux 5.13, and landlock in /sys/kernel/security/lsm";
const FILTER: &str = "the filter of system calls";
const FILTER_HINT: &str = ": it needs a kernel with CONFIG_SECCOMP_FILTER";
const ID_HINT: &str = ": the number must be one that /proc/self/uid_map and gid_map know";
const LIMIT_HINT: &str = ": see the limits in /proc/sys/user";
const PRIVATE_HINT: &str = ": impossible in a chroot whose directory is no mount point";
const PIVOT_HINT: &str =
    ": impossible where the root is the initial RAM file system; `--chroot-fallback` uses chroot there";
