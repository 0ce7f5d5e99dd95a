//! Namespace descriptors: who owns them, whether two are one, joining them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::result;

/// The user namespace that owns the namespace `ns`.
///
/// # Errors
/// `EPERM` if the owner is neither our user namespace nor one below it; `ENOTTY` if `ns` is no namespace.
pub fn owner(ns: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor or -1.
    let fd = result(unsafe { libc::ioctl(ns.as_fd().as_raw_fd(), NS_GET_USERNS) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// True if `ns` is the user namespace this process is in.
pub fn is_own_user_ns(ns: impl AsFd) -> bool {
    is_at(ns, "/proc/self/ns/user")
}

/// True if `ns` is the network namespace this process is in.
pub fn is_own_net_ns(ns: impl AsFd) -> bool {
    is_at(ns, "/proc/self/ns/net")
}

fn is_at(ns: impl AsFd, path: &str) -> bool {
    let same = || -> io::Result<bool> {
        let (a, b) = (fstat(File::open(path)?)?, fstat(ns)?);
        Ok(a.st_dev == b.st_dev && a.st_ino == b.st_ino)
    };
    same().unwrap_or(false)
}

/// # Errors
/// `EINVAL` if `ns` is no user namespace, or our own; `EPERM` without CAP_SYS_ADMIN in it.
pub fn join_user(ns: impl AsFd) -> io::Result<()> {
    Ok(setns(ns, CloneFlags::CLONE_NEWUSER)?)
}

/// # Errors
/// `EINVAL` if `ns` is no network namespace; `EPERM` without CAP_SYS_ADMIN here and in its owner.
pub fn join_net(ns: impl AsFd) -> io::Result<()> {
    Ok(setns(ns, CloneFlags::CLONE_NEWNET)?)
}

/// Joins those namespaces of a process, all or none.
///
/// # Errors
/// As [`join_user`] and [`join_net`]; `EINVAL` also before Linux 5.8; `ESRCH` when the process has ended.
pub fn join_of_process(pidfd: impl AsFd, which: CloneFlags) -> io::Result<()> {
    Ok(setns(pidfd, which)?)
}

/// The `CLONE_NEW*` flag of a namespace file's kind; `None` if it is no namespace.
pub fn kind(fd: impl AsFd) -> Option<CloneFlags> {
    if !fstatfs(&fd).is_ok_and(|s| s.filesystem_type() == NSFS_MAGIC) {
        return None;
    }
    // SAFETY: NS_GET_NSTYPE takes no argument and returns a flag or -1.
    let flag = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    CloneFlags::from_bits(flag)
}

const NS_GET_USERNS: libc::Ioctl = 0xb701;
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
