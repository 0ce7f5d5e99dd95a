//! A file of ours over the guest's resolv.conf, that stays there.
//!
//! It is in a tmpfs, and mounted over what the name leads to. Where the host replaces that file by another (rename(2)), as
//! systemd-resolved and NetworkManager do, the kernel takes down what was mounted over the old one (mount_namespaces(7),
//! "Restrictions on mount namespaces"), and the guest would see the host's. So whoever looks after the guest watches the name, and
//! mounts it again. The tmpfs lies on /proc, under the /proc that is mounted there next: a place that nobody sees.
//!
//! System calls: mount, umount2, openat, statx; those of [`crate::sys::names`].

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::sys::mounts;
use crate::sys::names::Events;

const PROC: &str = "/proc";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const NAME: &str = "resolv.conf";

pub struct Cover {
    file: File,
    /// The tmpfs.
    directory: File,
    /// The file under it.
    covered: Id,
}

/// Device and number of a file, by which there is one of it.
type Id = (u64, u64);

impl Cover {
    /// Puts a file with `text` over /etc/resolv.conf, or over what that links to. To be called before the new /proc.
    ///
    /// # Errors
    /// The kernel's, or there is no such file.
    pub fn make(text: &[u8]) -> io::Result<Cover> {
        let target = target()?;
        let covered = id(&fs::metadata(&target)?);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), PROC, Some("tmpfs"), flags, Some("size=64k,nr_inodes=4,mode=0755"))?;
        let make = || -> io::Result<Cover> {
            let directory = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(PROC)?;
            let path = Path::new(PROC).join(NAME);
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            file.write_all_at(text, 0)?;
            mount(Some(&path), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(Cover { file, directory, covered })
        };
        make().inspect_err(|_| drop(uncover_proc()))
    }

    /// The file, to be written to.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Keeps it in place from now on. To be called before the command starts, with the new /proc.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(self) -> io::Result<Watched> {
        let mut watched = Watched { events: Events::new(Path::new(RESOLV_CONF))?, cover: self };
        watched.look();
        Ok(watched)
    }

    /// True if there is another file than ours and than the one under it, and nobody has mounted that: the host has put it there.
    /// Else the user inside wants it so.
    fn is_replaced(&self) -> io::Result<bool> {
        let seen = id(&fs::metadata(RESOLV_CONF)?);
        Ok(seen != id(&self.file.metadata()?) && seen != self.covered && !mounts::is_one(&target()?)?)
    }

    fn mount_again(&mut self) -> io::Result<()> {
        self.covered = id(&fs::metadata(RESOLV_CONF)?);
        let source = format!("{PROC}/self/fd/{}/{NAME}", self.directory.as_raw_fd());
        Ok(mount(Some(source.as_str()), &target()?, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    }
}

/// A cover that stays.
pub struct Watched {
    cover: Cover,
    events: Events,
}

impl Watched {
    /// Something may have happened.
    pub fn hear(&mut self) {
        if self.events.take() {
            self.look();
        }
    }

    fn look(&mut self) {
        // Before it is looked at: what changes meanwhile is an event.
        self.events.watch();
        // A name that leads nowhere now is awaited; where it leads on the way is watched.
        if self.cover.is_replaced().unwrap_or(false) {
            let _ = self.cover.mount_again();
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// Takes the tmpfs off /proc. The file stays where it is mounted, but can be mounted nowhere else.
///
/// # Errors
/// The kernel's.
pub fn uncover_proc() -> io::Result<()> {
    Ok(umount2(PROC, MntFlags::MNT_DETACH)?)
}

fn id(of: &fs::Metadata) -> Id {
    (of.dev(), of.ino())
}

fn target() -> io::Result<PathBuf> {
    fs::canonicalize(RESOLV_CONF).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other("/etc/resolv.conf does not exist, so there is nothing to put one over")
        }
        _ => e,
    })
}
