//! What can only be found out by doing it, done by children that end at once.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::facts::{Errno, Inside, Tap};
use crate::sandbox::{self, Params, Role};
use crate::sys::process::{self, Cloned, Fork};
use crate::sys::tun::{self, TunError};

/// Makes the namespaces that `spelt run` makes, and a tap in them.
pub fn namespaces() -> Result<Inside, Errno> {
    let which = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID;
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let look = || Inside { is_root: become_root(uid.as_raw(), gid.as_raw()).map_err(errno), tap: make_tap() };
    in_child(which, look).map_err(errno)
}

fn become_root(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn make_tap() -> Result<Tap, Errno> {
    match tun::open("spelt0", 1) {
        Ok((_, o)) => Ok(Tap { vnet_header: o.vnet_header, csum: o.csum, tso: o.tso, uso: o.uso }),
        Err(TunError::Open(e) | TunError::Create(e)) => Err(errno(e)),
    }
}

/// Gives up what a process of ours gives up before it serves anybody.
pub fn isolation() -> Result<(), String> {
    let params = Params { role: Some(Role::RUN), ..Params::default() };
    let outcome = in_child(CloneFlags::empty(), || sandbox::enter(&params).map_err(|e| e.to_string()));
    outcome.unwrap_or_else(|e| Err(format!("the trial failed: {e}")))
}

/// What `look` finds in a child in new namespaces.
fn in_child<T: Serialize + DeserializeOwned>(namespaces: CloneFlags, look: impl FnOnce() -> T) -> io::Result<T> {
    let (answer, tell): (OwnedFd, OwnedFd) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    match process::clone_into(namespaces)? {
        Fork::Child => {
            // What it finds is less than a pipe holds, and who does not hear it takes the silence for failure.
            let _ = serde_json::to_vec(&look()).map(|found| File::from(tell).write_all(&found));
            process::exit_now(0)
        }
        Fork::Parent(Cloned { pid, .. }) => {
            drop(tell);
            let mut found = Vec::new();
            let read = File::from(answer).read_to_end(&mut found);
            let _ = waitpid(Pid::from_raw(pid), None);
            read?;
            serde_json::from_slice(&found)
                .map_err(|_| io::Error::other("the process for it ended before it had an answer"))
        }
    }
}

/// An error that is none of the kernel's counts as one of input and output.
pub fn errno(e: io::Error) -> Errno {
    e.raw_os_error().unwrap_or(libc::EIO)
}
