//! Noticing that a namespace is gone.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{Mode, fstatat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use crate::sys::pidfd;

/// To be registered with the event loop for reading, or asked every [`Watch::period`].
#[derive(Debug)]
pub struct Watch(Kind);

#[derive(Debug)]
enum Kind {
    /// The process that was named, or whose /proc entry was.
    Process(OwnedFd),
    /// A name in a directory that tells of changes.
    Name(Name, Inotify),
    /// One in a directory that does not.
    Recheck(Name),
    /// A descriptor of our own, of a namespace without a name that could go.
    Never,
}

/// A directory held open works without any file system around us.
#[derive(Debug)]
struct Name {
    directory: OwnedFd,
    name: OsString,
}

impl Watch {
    /// # Errors
    /// `ESRCH` if there is no such process.
    pub fn process(pid: i32) -> io::Result<Watch> {
        Ok(Watch(Kind::Process(pidfd::open(pid)?)))
    }

    /// Follows symbolic links: what is watched is the file that was meant.
    ///
    /// # Errors
    /// When the directory of `path` does not open.
    pub fn path(path: &Path) -> io::Result<Watch> {
        let mut path = path.to_path_buf();
        for _ in 0..SYMLINKS_MAX {
            let name = Name::open(&path)?;
            if fstatfs(&name.directory).is_ok_and(|s| s.filesystem_type() == PROC_SUPER_MAGIC) {
                return Ok(Watch(of_proc(name, &path)));
            }
            match fs::read_link(&path) {
                Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
                Err(_) => return Ok(Watch(of_directory(name, &path))),
            }
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }

    /// What becomes readable; `None`: nothing does.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            Kind::Process(fd) => Some(fd.as_fd()),
            Kind::Name(_, inotify) => Some(inotify.as_fd()),
            Kind::Recheck(_) | Kind::Never => None,
        }
    }

    /// How often to call [`Watch::is_gone`] without an event; `None`: events suffice.
    pub fn period(&self) -> Option<Duration> {
        matches!(self.0, Kind::Recheck(_)).then_some(RECHECK)
    }

    /// Takes pending events and looks. To be called at each event and each period.
    pub fn is_gone(&mut self) -> bool {
        match &self.0 {
            // Out of resources is not the end of the namespace.
            Kind::Process(fd) => pidfd::has_ended(fd).unwrap_or(false),
            Kind::Name(name, inotify) => {
                let mut left = false;
                // One read takes what fits; an edge-triggered poller wants it empty.
                while let Ok(events) = inotify.read_events()
                    && !events.is_empty()
                {
                    left |= events.iter().any(|e| e.name.as_deref() == Some(&name.name));
                }
                // Also if there is another by that name already, or if it may not be looked at, for we are another user by now.
                left || name.is_gone().unwrap_or(false)
            }
            Kind::Recheck(name) => name.is_gone().unwrap_or(false),
            Kind::Never => false,
        }
    }
}

impl Name {
    fn open(path: &Path) -> io::Result<Name> {
        let name = path.file_name().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?.to_owned();
        let parent = match path.parent() {
            Some(p) if p != Path::new("") => p,
            _ => Path::new("."),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Name { directory: nix::fcntl::open(parent, flags, Mode::empty())?, name })
    }

    /// `None` where there is no definite answer: no permission, no memory and the like.
    fn is_gone(&self) -> Option<bool> {
        match fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Some(false),
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ESRCH) => Some(true),
            Err(_) => None,
        }
    }
}

/// `/proc/PID/ns/net` and `/proc/PID/fd/N` go with their process. A descriptor of our own was opened by whoever started us
/// from a file that may have a name elsewhere; nothing tells of the end of a namespace that has none.
fn of_proc(name: Name, path: &Path) -> Kind {
    let link = format!("/proc/self/fd/{}", name.directory.as_raw_fd());
    let Some(pid) = fs::read_link(link).ok().and_then(|p| pid_in(&p)) else { return Kind::Recheck(name) };
    if pid == std::process::id() as i32 {
        let elsewhere = fs::read_link(path).ok().filter(|to| to.is_absolute() && is_same_file(path, to));
        return elsewhere.and_then(|to| Some(of_directory(Name::open(&to).ok()?, &to))).unwrap_or(Kind::Never);
    }
    pidfd::open(pid).map_or(Kind::Recheck(name), Kind::Process)
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

fn pid_in(directory: &Path) -> Option<i32> {
    directory.iter().filter_map(OsStr::to_str).find_map(|part| part.parse().ok())
}

fn of_directory(name: Name, path: &Path) -> Kind {
    let parent = path.parent().filter(|p| *p != Path::new("")).map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let what = AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    let watch = || -> nix::Result<Inotify> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(&parent, what)?;
        Ok(inotify)
    };
    match watch() {
        Ok(inotify) => Kind::Name(name, inotify),
        // The user's limit on inotify instances, or a file system without it.
        Err(e) => {
            log::debug!("no inotify on {}: {e}", parent.display());
            Kind::Recheck(name)
        }
    }
}

const RECHECK: Duration = Duration::from_secs(1);
const SYMLINKS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_name_is_an_event() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other, link) = (dir.path().join("ns"), dir.path().join("other"), dir.path().join("link"));
        fs::write(&file, "").unwrap();
        fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink("ns", &link).unwrap();
        let mut w = Watch::path(&link).unwrap();
        assert!(w.period().is_none() && !w.is_gone());
        fs::remove_file(&other).unwrap();
        assert!(pidfd::has_ended(w.fd().unwrap()).unwrap(), "readable");
        assert!(!w.is_gone());
        assert!(!pidfd::has_ended(w.fd().unwrap()).unwrap(), "drained");
        // One that is made anew at once is another.
        let mut again = Watch::path(&link).unwrap();
        fs::remove_file(&file).unwrap();
        fs::write(&file, "").unwrap();
        assert!(again.is_gone());
        let mut w = Watch::path(&link).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(pidfd::has_ended(w.fd().unwrap()).unwrap());
        assert!(w.is_gone());
    }

    #[test]
    fn proc_paths_watch_the_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut by_path = Watch::path(Path::new(&format!("/proc/{}/ns/net", child.id()))).unwrap();
        let mut by_pid = Watch::process(child.id() as i32).unwrap();
        assert!(matches!(by_path.0, Kind::Process(_)));
        assert!(!by_path.is_gone() && !by_pid.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(by_path.is_gone() && by_pid.is_gone());
    }

    #[test]
    fn own_descriptors_without_a_name_do_not_go() {
        let (ours, _theirs) = io::pipe().unwrap();
        let w = Watch::path(Path::new(&format!("/proc/self/fd/{}", ours.as_raw_fd()))).unwrap();
        assert!(matches!(w.0, Kind::Never));
    }

    #[test]
    fn missing_directory_is_an_error() {
        assert!(Watch::path(Path::new("/nonexistent/ns")).is_err());
        assert!(Watch::process(i32::MAX).is_err());
    }
}
