//! What happens to a file under its name, of which there may be several: links that lead to it.
//!
//! System calls: inotify_init1, inotify_add_watch, inotify_rm_watch, read, readlink.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Tells when the file may be another, or say something else.
pub struct Events {
    path: PathBuf,
    inotify: Inotify,
    /// The name in a directory, or `None` for a file itself.
    watched: Vec<(WatchDescriptor, Option<PathBuf>)>,
}

impl Events {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// The kernel's: this user has no instance of inotify(7) left, perhaps.
    pub fn new(path: &Path) -> io::Result<Events> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Events { path: path.into(), inotify, watched: Vec::new() })
    }

    /// Watches the file and the names that lead to it now. To be called again after each event, before it is looked at.
    pub fn watch(&mut self) {
        // The kernel gives one that is watched already its number again.
        let mut now = Vec::new();
        names(&self.path).iter().for_each(|name| self.watch_name(name, &mut now));
        // Not by its directory, if something else is mounted over its name.
        now.extend(self.inotify.add_watch(&self.path, OF_FILE).ok().map(|descriptor| (descriptor, None)));
        for (descriptor, _) in self.watched.drain(..) {
            if now.iter().all(|(other, _)| *other != descriptor) {
                let _ = self.inotify.rm_watch(descriptor);
            }
        }
        self.watched = now;
    }

    /// In its directory. One that is not there is awaited in the nearest above that is.
    fn watch_name(&self, name: &Path, now: &mut Vec<(WatchDescriptor, Option<PathBuf>)>) {
        let watch = |at: &Path| self.inotify.add_watch(at, OF_DIRECTORY).ok();
        let nearest = || name.ancestors().find_map(|at| Some((watch(at.parent()?)?, at)));
        let mut before = None;
        // Twice, if it is not its own: the next may have come before this one was watched.
        while let Some((descriptor, at)) = nearest().filter(|(_, at)| before != Some(*at)) {
            now.push((descriptor, at.file_name().map(PathBuf::from)));
            if at == name {
                return;
            }
            before = Some(at);
        }
    }

    /// True if something has happened since the last call.
    pub fn take(&self) -> bool {
        // Of the names in a directory only ours matter; without a name it is the file itself, or an overrun.
        let is_ours = |name: &Option<OsString>, of: WatchDescriptor| match name {
            None => true,
            Some(name) => self.watched.iter().any(|(d, n)| *d == of && n.as_deref() == Some(Path::new(name))),
        };
        self.inotify.read_events().is_ok_and(|events| events.iter().any(|e| is_ours(&e.name, e.wd)))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// All names that lead to the file, the first one first.
pub fn names(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_path_buf()];
    while let Some(last) = all.last().filter(|_| all.len() < LINKS_MAX)
        && let Ok(target) = std::fs::read_link(last)
    {
        let next = last.parent().unwrap_or(Path::new("/")).join(target);
        all.push(next);
    }
    all
}

const OF_FILE: AddWatchFlags = AddWatchFlags::IN_MODIFY.union(AddWatchFlags::IN_CLOSE_WRITE);
const OF_DIRECTORY: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ONLYDIR);
const LINKS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_the_file_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("loop");
        std::os::unix::fs::symlink("loop", &link).unwrap();
        assert_eq!(names(&link).len(), LINKS_MAX);
        assert_eq!(names(&dir.path().join("none")).len(), 1);
    }
}
