//! Landlock (landlock(7)): giving up access to files for good, without any privilege.
//!
//! System calls: landlock_create_ruleset, landlock_add_rule, landlock_restrict_self, openat, close, at start.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::result;

/// The version of the kernel's interface, from 1.
///
/// # Errors
/// `ENOSYS` if this kernel has no Landlock (before 5.13, or built without), `EOPNOTSUPP` if it is switched off.
pub fn version() -> io::Result<usize> {
    // SAFETY: with this flag the kernel takes no structure and makes no descriptor.
    result(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Ruleset>(), 0, VERSION) })
}

/// From now on this thread, and those that it makes, opens, makes and removes no file; descriptors that are open stay what they
/// are. With interface 6 it reaches no abstract UNIX socket of others either, and if `signals` then it sends none to processes
/// outside. Needs no_new_privs or CAP_SYS_ADMIN.
///
/// # Errors
/// As [`version`]; `EPERM`; `E2BIG` in the 17th of these layers.
pub fn give_up_files(signals: bool) -> io::Result<()> {
    give_up_files_but(&[], signals)
}

/// As [`give_up_files`], but what is beneath these directories can still be read.
///
/// # Errors
/// As [`give_up_files`]. Directories that are not there are left out.
pub fn give_up_files_but(readable: &[PathBuf], signals: bool) -> io::Result<()> {
    let version = version()?;
    let scoped = if signals { SCOPE_SOCKETS | SCOPE_SIGNALS } else { SCOPE_SOCKETS };
    let ruleset = Ruleset {
        files: FILES[version.min(FILES.len()) - 1],
        // Which ports may be used is for the rules of forwarding to say.
        ports: 0,
        scoped: if version >= 6 { scoped } else { 0 },
    };
    // SAFETY: the kernel reads one structure of the size that it is told. One that knows a shorter one takes this as long as the
    // rest is zero.
    let fd = result(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size_of::<Ruleset>(), 0)
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    for path in readable {
        let Ok(directory) = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)
        else {
            continue;
        };
        let rule = Beneath { allowed: READ_FILE | READ_DIR, parent: directory.as_raw_fd() };
        // SAFETY: the kernel reads one structure of the kind that it is told, which outlives the call.
        result(unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, fd.as_raw_fd(), PATH_BENEATH, &raw const rule, 0)
        })?;
    }
    // SAFETY: two integers.
    result(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_raw_fd(), 0) })?;
    Ok(())
}

/// `struct landlock_ruleset_attr`.
#[repr(C)]
struct Ruleset {
    files: u64,
    ports: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: RawFd,
}

/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: libc::c_uint = 1;
/// `LANDLOCK_ACCESS_FS_READ_FILE`, `LANDLOCK_ACCESS_FS_READ_DIR`: the latter for inotify(7).
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: libc::c_uint = 1;
/// Every kind of access to files, by version: the kernel refuses what it does not know.
const FILES: [u64; 5] = [(1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1];
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET`.
const SCOPE_SOCKETS: u64 = 1;
/// `LANDLOCK_SCOPE_SIGNAL`.
const SCOPE_SIGNALS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn what_is_beneath_can_be_read_and_nothing_else() {
        if version().is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(&inside, "text").unwrap();
        let readable = [dir.path().to_path_buf(), PathBuf::from("/nonexistent")];
        let outcome = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            give_up_files_but(&readable, true).unwrap();
            let denied = [File::open(outside.path()), File::create(&inside)].map(|r| r.unwrap_err().kind());
            (std::fs::read(&inside).unwrap(), denied)
        });
        assert_eq!(outcome.join().unwrap(), (b"text".to_vec(), [io::ErrorKind::PermissionDenied; 2]));
    }

    #[test]
    fn what_is_open_stays_and_nothing_else_opens() {
        if version().is_err() {
            return;
        }
        let outcome = std::thread::spawn(|| {
            let mut open = File::open("/proc/self/stat").unwrap();
            nix::sys::prctl::set_no_new_privs().unwrap();
            give_up_files(true).unwrap();
            let mut text = String::new();
            let read = open.read_to_string(&mut text).unwrap();
            (read > 0, File::open("/proc/self/stat").unwrap_err().kind())
        });
        assert_eq!(outcome.join().unwrap(), (true, io::ErrorKind::PermissionDenied));
    }
}
