//! Where control sockets are.
//!
//! System calls: mkdir, lstat, umask, bind, listen, socket, connect, unlink, getdents64, kill (which processes are there).

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sys::stat::umask;
use nix::unistd::Pid;

use crate::config::Control;

/// Listens where the configuration says. `None`: nowhere.
///
/// # Errors
/// The kernel's, for a path that the user gave.
pub fn listen(control: &Control) -> anyhow::Result<Option<UnixListener>> {
    match control {
        Control::Off => Ok(None),
        Control::At(path) => {
            let what = || format!("cannot listen at the control socket '{}' (option '--control')", path.display());
            bind(path).map(Some).with_context(what)
        }
        Control::Default => {
            let Some(path) = default_path(std::process::id()) else { return Ok(None) };
            let bound =
                path.parent().map_or(Ok(()), |dir| private_dir(dir).map(|()| sweep(dir))).and_then(|()| bind(&path));
            Ok(bound.inspect_err(|e| log::info!("no control socket at '{}': {e}", path.display())).ok())
        }
    }
}

/// There will be one, as far as can be told before it is tried.
pub fn is_wanted(control: &Control) -> bool {
    match control {
        Control::Off => false,
        Control::At(_) => true,
        Control::Default => default_dir().is_some(),
    }
}

/// Where the control socket of this process is, by default.
pub fn default_path(pid: u32) -> Option<PathBuf> {
    Some(default_dir()?.join(format!("{pid}.sock")))
}

/// Where those of all of the user's instances are.
pub fn default_dir() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    runtime.is_absolute().then(|| runtime.join("spelt"))
}

/// Makes it, or makes sure that nobody else may put anything there.
fn private_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let found = std::fs::symlink_metadata(dir)?;
    let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if ours { Ok(()) } else { Err(io::Error::other("the directory is not this user's alone")) }
}

/// Removes some of the sockets of instances that have ended, which could not: a confined process sees no files. Each start
/// leaves one behind and takes more than one away.
fn sweep(dir: &Path) {
    const SOME: usize = 16;
    // One that cannot be found may be in another PID namespace, and live.
    let ended = |path: &PathBuf| {
        let pid = path.file_stem().and_then(|s| s.to_str()?.parse().ok()).filter(|pid| *pid > 0);
        pid.is_some_and(|pid| nix::sys::signal::kill(Pid::from_raw(pid), None) == Err(nix::Error::ESRCH))
            && is_stale(path).unwrap_or(false)
    };
    let paths = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in paths.filter(|path| path.extension().is_some_and(|e| e == "sock") && ended(path)).take(SOME) {
        // Another instance may be quicker.
        let _ = std::fs::remove_file(path);
    }
}

/// A socket that nobody listens at any more is replaced, anything else is not.
///
/// # Errors
/// The kernel's, or there is something else.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok() && is_stale(path)? {
        std::fs::remove_file(path)?;
    }
    // Not the owner's alone a moment later, but from the start.
    let before = umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// # Errors
/// What is there is no socket.
pub fn is_stale(path: &Path) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::other("there is a file of that name that is no socket"));
    }
    // A datagram socket cannot be connected to a listener (EPROTOTYPE), and so is not taken for a client by who waits there.
    let connected = UnixDatagram::unbound()?.connect(path);
    Ok(connected.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_of_another_pid_namespace_keep_their_sockets() {
        let dir = tempfile::tempdir().unwrap();
        // No process has these numbers.
        let [alive, left] = ["2147483646.sock", "2147483647.sock"].map(|name| dir.path().join(name));
        let _listener = UnixListener::bind(&alive).unwrap();
        drop(UnixListener::bind(&left).unwrap());
        sweep(dir.path());
        assert!(alive.exists() && !left.exists());
    }
}
