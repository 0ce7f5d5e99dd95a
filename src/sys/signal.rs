//! Signals as events.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Blocked signals, read one by one.
pub struct Signals(SignalFd);

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// `SIGTERM`, ...
    pub number: i32,
    /// A process sent it. False: the kernel did, as the terminal's interrupt key makes it; then the whole foreground
    /// process group has it already.
    pub from_process: bool,
    /// The sender's, 0 if it is not visible from here.
    pub pid: u32,
}

impl Signals {
    /// Blocks `which` and takes them from now on. Non-blocking, close-on-exec.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(which: &[Signal]) -> io::Result<Signals> {
        Signals::of(which.iter().copied().collect())
    }

    /// The same with all there are, real-time ones included.
    ///
    /// # Errors
    /// The kernel's.
    pub fn all() -> io::Result<Signals> {
        Signals::of(SigSet::all())
    }

    fn of(set: SigSet) -> io::Result<Signals> {
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        Ok(Signals(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// `None` when no more are pending.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&mut self) -> io::Result<Option<Received>> {
        Ok(self.0.read_signal()?.map(|s| Received {
            number: s.ssi_signo as i32,
            // SI_USER, SI_QUEUE, SI_TKILL and their like are zero or negative.
            from_process: s.ssi_code <= 0,
            pid: s.ssi_pid,
        }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Blocks all signals, for a process that takes them with [`wait`] only.
///
/// # Errors
/// The kernel's.
pub fn block_all() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)?)
}

/// Waits for the next signal of any kind; they must be blocked. PID 1 gets blocked signals although it has no handlers.
///
/// # Errors
/// `EINTR` after a stop.
pub fn wait() -> io::Result<Received> {
    // SAFETY: an all-zero siginfo is a valid value of this plain C union.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the types the call reads and writes.
    let number = unsafe { libc::sigwaitinfo(SigSet::all().as_ref(), &mut info) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel fills the sender for the signals that have one; for others the field is some other integer.
    let pid = unsafe { info.si_pid() } as u32;
    Ok(Received { number, from_process: info.si_code <= 0, pid })
}

/// To be called first of all. Writing to a peer that is gone, or beyond the size limit of files (setrlimit(2)), is an
/// error and not the end; and a caller that ignores SIGCHLD, which exec(2) hands down, must not make the end of our
/// children unknowable (wait(2)).
pub fn prepare() {
    set(libc::SIGPIPE, libc::SIG_IGN);
    set(libc::SIGXFSZ, libc::SIG_IGN);
    set(libc::SIGCHLD, libc::SIG_DFL);
}

/// For a program that is about to be executed: what [`prepare`] did is undone, nothing is blocked, and what else the caller
/// ignores stays ignored, as after nohup(1).
pub fn reset() {
    for number in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGCHLD] {
        set(number, libc::SIG_DFL);
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// True if whoever started this process wants it to take no notice of `signal`.
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: an all-zero sigaction is a valid value of this plain C struct.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only writes the present one, to a live value.
    let r = unsafe { libc::sigaction(signal as i32, std::ptr::null(), &mut now) };
    r == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// `action`: SIG_IGN or SIG_DFL.
fn set(number: i32, action: libc::sighandler_t) {
    // SAFETY: neither of the two runs code of ours.
    unsafe { libc::signal(number, action) };
}
