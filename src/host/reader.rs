//! resolv.conf, read again whenever it changes, by a process that can do nothing else.
//!
//! The process that serves the guest sees no files. This one, forked before that is so, sees /etc, /run and where resolv.conf is
//! beside them, to read only (Landlock); it has no capabilities, makes no sockets, and takes nothing from anybody but the word to
//! begin, which comes when all else is up. It sends the text as it is; whoever parses it is as confined as the rest.
//!
//! Events (inotify(7)) tell of the file itself and of the directories of all names that lead to it, for it may be written to,
//! or replaced, or be a link that leads elsewhere from now on. It is read when nothing was told for [`QUIET`], no later than
//! [`LONGEST`] after the first event; nothing is sent if it says what it said before.
//!
//! System calls: of the reader chdir, recvmsg, inotify_init1, inotify_add_watch, inotify_rm_watch, poll, read, openat, readlink, close,
//! sendmsg; of ours sendmsg, recvfrom, at the end wait4.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::{RESOLV_CONF, Resolv};
use crate::sys::names::{Events, names};
use crate::sys::process::Fork;
use crate::sys::{fdpass, process, signal};

/// Our end.
#[derive(Debug)]
pub struct Reader {
    channel: OwnedFd,
    pid: Pid,
}

impl Reader {
    /// `confine`: how the process gives up what it does not need, but for reading in these directories. To be called while this
    /// process has one thread.
    ///
    /// # Errors
    /// There is no process to be had.
    pub fn start<E>(confine: impl FnOnce(&[PathBuf]) -> Result<(), E>) -> io::Result<Reader> {
        let (ours, theirs) = fdpass::pair()?;
        match process::fork()? {
            Fork::Child => {
                drop(ours);
                run(&theirs, confine);
                process::exit_now(0)
            }
            Fork::Parent(pid) => {
                fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                Ok(Reader { channel: ours, pid })
            }
        }
    }

    /// All else is up.
    pub fn begin(&self) {
        // One that is gone is noticed by its end of the channel.
        let _ = fdpass::send(self.channel.as_fd(), b"go", None);
    }

    /// What resolv.conf says now, if that is new; an error if nobody will tell any more.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`].
    pub fn news(&self) -> io::Result<Option<Resolv>> {
        let mut latest = None;
        // Longer messages are none: texts are cut where they are read.
        let mut room = vec![0; MESSAGE_BYTES];
        loop {
            match recv(self.channel.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => {
                    let _ = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(len) => latest = Some(Resolv::of(Some(&room[1..len]).filter(|_| room[0] == THERE))),
                Err(nix::Error::EAGAIN) => return Ok(latest),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsRawFd for Reader {
    fn as_raw_fd(&self) -> RawFd {
        self.channel.as_raw_fd()
    }
}

/// The reader's own side. Returns when there is nobody to read for, or no way to.
fn run<E>(channel: &OwnedFd, confine: impl FnOnce(&[PathBuf]) -> Result<(), E>) {
    // The logger's descriptor is about to be closed, and its number to be used again.
    log::set_max_level(log::LevelFilter::Off);
    let blocked = signal::block_all();
    process::let_go_of_std_fds();
    process::close_inherited(Some(channel.as_raw_fd()));
    let _ = prctl::set_name(c"spelt-reader");
    // Where the caller was may be on something that is to be unmounted.
    let _ = nix::unistd::chdir("/");
    if !matches!(fdpass::recv(channel.as_fd(), 2), Ok((word, _)) if word == b"go") {
        return;
    }
    let path = Path::new(RESOLV_CONF);
    let mut directories = vec![PathBuf::from("/etc"), PathBuf::from("/run")];
    directories.extend(names(path).iter().filter_map(|name| name.parent().map(Path::to_path_buf)));
    let Ok(events) = Events::new(path) else { return };
    if blocked.is_ok() && confine(&directories).is_ok() {
        follow(path, events, channel);
    }
}

fn follow(path: &Path, mut events: Events, channel: &OwnedFd) {
    let mut told = None;
    loop {
        // Before it is read: what changes meanwhile is an event.
        events.watch();
        let now = read(path);
        // The first is what was read at start, unless it has changed since.
        if let Some(text) = now.as_ref().filter(|_| told != now) {
            if fdpass::send(channel.as_fd(), text, None).is_err() {
                return;
            }
            told = now;
        }
        if !wait(&events, channel) {
            return;
        }
    }
}

/// [`THERE`] and the text, or [`MISSING`]. `None`: it cannot be told, as of a link to where this process sees nothing.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut message = vec![THERE];
    // Some C libraries have another call for open(2), which the filter does not know.
    let opened = openat(AT_FDCWD, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK, Mode::empty());
    let read = opened
        .map_err(io::Error::from)
        .and_then(|fd| File::from(fd).take((MESSAGE_BYTES - 1) as u64).read_to_end(&mut message));
    match read {
        Ok(_) => Some(message),
        Err(e) => (e.kind() == io::ErrorKind::NotFound).then(|| vec![MISSING]),
    }
}

/// Returns when something has happened and it is quiet again. False: there is nobody to read for.
fn wait(events: &Events, channel: &OwnedFd) -> bool {
    let mut first: Option<Instant> = None;
    loop {
        let timeout = match first {
            Some(at) if at.elapsed() >= LONGEST => return true,
            Some(_) => PollTimeout::try_from(QUIET).unwrap_or(PollTimeout::ZERO),
            None => PollTimeout::NONE,
        };
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN), PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return true,
            Ok(_) if fds[1].any().unwrap_or(true) => return false,
            Ok(_) => {}
            Err(nix::Error::EINTR) => continue,
            Err(_) => return false,
        }
        if events.take() {
            first = first.or_else(|| Some(Instant::now()));
        }
    }
}

const QUIET: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// With the first byte; longer files count as far as that.
const MESSAGE_BYTES: usize = 65536;
const THERE: u8 = b'T';
const MISSING: u8 = b'M';

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The texts that are sent while `change` is going on.
    fn sent(path: &Path, change: impl FnOnce(&dyn Fn() -> Vec<u8>)) {
        let (ours, theirs) = fdpass::pair().unwrap();
        let path = path.to_path_buf();
        let thread = std::thread::spawn(move || follow(&path, Events::new(&path).unwrap(), &theirs));
        change(&|| fdpass::recv(ours.as_fd(), MESSAGE_BYTES).unwrap().0);
        drop(ours);
        thread.join().unwrap();
    }

    #[test]
    fn written_replaced_led_elsewhere_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("stub"), dir.path().join("resolv.conf"));
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::write(&file, "one").unwrap();
        std::os::unix::fs::symlink("stub", &link).unwrap();
        sent(&link, |next| {
            assert_eq!(next(), b"Tone");
            fs::write(&file, "two").unwrap();
            assert_eq!(next(), b"Ttwo");
            fs::write(dir.path().join("new"), "three").unwrap();
            fs::rename(dir.path().join("new"), &file).unwrap();
            assert_eq!(next(), b"Tthree");
            fs::write(dir.path().join("run/other"), "four").unwrap();
            std::os::unix::fs::symlink("run/other", dir.path().join("new")).unwrap();
            fs::rename(dir.path().join("new"), &link).unwrap();
            assert_eq!(next(), b"Tfour");
            fs::write(dir.path().join("run/other"), "five").unwrap();
            assert_eq!(next(), b"Tfive");
            fs::write(&file, "nobody reads this").unwrap();
            fs::remove_file(&link).unwrap();
            assert_eq!(next(), b"M");
        });
    }

    #[test]
    fn directories_that_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (link, run) = (dir.path().join("resolv.conf"), dir.path().join("run"));
        std::os::unix::fs::symlink("run/stub/resolv.conf", &link).unwrap();
        sent(&link, |next| {
            assert_eq!(next(), b"M");
            for text in ["one", "two"] {
                fs::create_dir_all(run.join("stub")).unwrap();
                fs::write(run.join("stub/resolv.conf"), text).unwrap();
                assert_eq!(next(), format!("T{text}").as_bytes());
                fs::remove_dir_all(&run).unwrap();
                assert_eq!(next(), b"M");
            }
        });
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!((read(dir.path()), read(&dir.path().join("none"))), (None, Some(vec![MISSING])));
    }
}
