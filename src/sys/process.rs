//! Making processes, ending them, and what they inherit.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork<P> {
    Parent(P),
    Child,
}

/// A child made by [`clone_into`].
#[derive(Debug)]
pub struct Cloned {
    pub pid: i32,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Forks into new namespaces with one call. The child has a copy of this process's memory and the calling thread only:
/// to be called while the process has one thread, because the allocator's locks are not taken over.
///
/// # Errors
/// `ENOSPC` or `EUSERS` at the limits of `/proc/sys/user`, `EPERM` where user namespaces are forbidden.
pub fn clone_into(namespaces: CloneFlags) -> io::Result<Fork<Cloned>> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: (namespaces.bits() as u32 as u64) | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM this is fork: the child runs on its own copy of stack and memory. The argument struct and
    // `pidfd` outlive the call.
    let mut pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    if pid == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        // Old container profiles pretend that clone3 does not exist, because they cannot look into its structure.
        // SAFETY: as above; the pidfd goes where the parent's tid would.
        pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                args.flags as libc::c_ulong | args.exit_signal as libc::c_ulong,
                0,
                &raw mut pidfd,
                0,
                0,
            )
        };
    }
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        // SAFETY: the kernel has just stored a new descriptor (close-on-exec) there.
        pid => Ok(Fork::Parent(Cloned { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

/// fork(2). To be called while the process has one thread.
///
/// # Errors
/// `EAGAIN` at the process limit.
pub fn fork() -> io::Result<Fork<Pid>> {
    // SAFETY: libc's fork keeps its own locks consistent in the child; the process has one thread by this function's
    // contract, so no lock of ours can be held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Ends at once, without running destructors or exit handlers of the memory shared with a parent by fork.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Replaces the program; PATH is searched if the name has no slash. Returns only on failure.
pub fn exec(program: &CString, args: &[CString]) -> io::Error {
    match nix::unistd::execvp(program, args) {
        Err(e) => e.into(),
        Ok(never) => match never {},
    }
}

/// Makes this process undumpable, to be called before it enters another user namespace: whoever is root there may trace
/// what comes in (ptrace(2)), and would get at the descriptors and the root directory that it brings along.
///
/// # Errors
/// The kernel's.
pub fn hide_from_tracers() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Closes every descriptor from 3 on but `keep`.
pub fn close_inherited(keep: Option<RawFd>) {
    match keep {
        Some(fd) if fd >= 3 => {
            close_range(3, fd as u32 - 1);
            close_range(fd as u32 + 1, u32::MAX);
        }
        _ => close_range(3, u32::MAX),
    }
}

/// Makes stdin, stdout and stderr nobody's: `/dev/null`, or nothing at all where that does not open.
pub fn let_go_of_std_fds() {
    match OpenOptions::new().read(true).write(true).open("/dev/null") {
        Ok(null) => {
            let _ = nix::unistd::dup2_stdin(&null);
            let _ = nix::unistd::dup2_stdout(&null);
            let _ = nix::unistd::dup2_stderr(&null);
        }
        Err(_) => close_range(0, 2),
    }
}

/// The descriptors from 3 on that are open now: what was inherited, if asked first of all.
pub fn open_descriptors() -> Vec<RawFd> {
    let Ok(dir) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let mut all: Vec<RawFd> =
        dir.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect();
    // One of them was the directory's own.
    // SAFETY: F_GETFD only looks, at whatever the number means.
    all.retain(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0);
    all
}

/// A descriptor of our own for what the caller has left open under this number; the caller's may be closed then.
///
/// # Errors
/// `EBADF` if there is none.
pub fn adopt_descriptor(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC only reads the number's entry, whatever it is; no descriptor of ours comes below 3.
    let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if own < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(own) })
}

/// Whether the other end of a pipe or socket is closed.
pub fn is_hung_up(fd: &impl AsFd) -> bool {
    // Both are told without being asked for; data that waits says nothing.
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::empty())];
    let over = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut polled, PollTimeout::ZERO).is_ok() && polled[0].revents().is_some_and(|r| r.intersects(over))
}

/// Closes descriptors that nothing in this process owns.
pub fn close_descriptors(all: Vec<RawFd>) {
    for fd in all {
        let _ = nix::unistd::close(fd);
    }
}

/// Opens `/dev/null` where one of the descriptors 0–2 is missing: the next file opened must not become "stderr".
///
/// # Errors
/// When `/dev/null` does not open.
pub fn ensure_std_fds() -> io::Result<()> {
    loop {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        // Now it is one of the three, and stays.
        std::mem::forget(null);
    }
}

/// Soft and hard limit on open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    pub soft: u64,
    pub hard: u64,
}

/// Raises the soft limit on open files to the hard one, one socket being needed per flow, and returns what it was.
///
/// # Errors
/// The kernel's.
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(OpenFiles { soft, hard })
}

/// The soft limit on open files.
pub fn open_files_max() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// Puts back what [`raise_open_files`] returned, for a program that may still use select(2).
///
/// # Errors
/// The kernel's.
pub fn restore_open_files(was: OpenFiles) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, was.soft, was.hard)?)
}

/// The background half of a process whose parent still waits.
#[derive(Debug)]
pub struct Daemon {
    readiness: OwnedFd,
}

/// Forks. The child returns, in a session of its own; its messages still reach the caller's stderr. The parent waits and
/// exits: with 0 at [`Daemon::ready`], with the child's status if that ends before.
///
/// To be called while the process has one thread.
///
/// # Errors
/// The kernel's.
pub fn daemonize() -> io::Result<Daemon> {
    let (wait, readiness) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match fork()? {
        Fork::Parent(child) => {
            drop(readiness);
            exit_now(await_ready(wait, child));
        }
        Fork::Child => {
            drop(wait);
            nix::unistd::setsid()?;
            Ok(Daemon { readiness })
        }
    }
}

impl Daemon {
    /// Lets go of stdin, stdout and stderr, then of the waiting parent. `null` is `/dev/null`, opened while there was a
    /// file system to open it from.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ready(self, null: &File) -> io::Result<()> {
        nix::unistd::dup2_stdin(null)?;
        nix::unistd::dup2_stdout(null)?;
        nix::unistd::dup2_stderr(null)?;
        // Fails only if the parent was killed; the daemon goes on then.
        let _ = File::from(self.readiness).write_all(&[1]);
        Ok(())
    }
}

fn await_ready(wait: OwnedFd, child: Pid) -> i32 {
    let mut byte = [0];
    if File::from(wait).read_exact(&mut byte).is_ok() {
        return 0;
    }
    loop {
        match waitpid(child, None) {
            // It ended, but cannot have been ready.
            Ok(WaitStatus::Exited(_, 0)) => return 1,
            Ok(WaitStatus::Exited(_, status)) => return status,
            Err(nix::Error::EINTR) => {}
            _ => return 1,
        }
    }
}

/// A process that has ended, and its exit status as a shell reports it: 128+N for signal N, real-time ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub pid: i32,
    pub status: u8,
}

/// Takes a child that has ended: this one, or any. `None`: there is none yet.
///
/// # Errors
/// The kernel's: `ECHILD` if there is no such child.
pub fn reap(pid: Option<i32>) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer, to a live one.
    let pid =
        super::unbroken(|| super::result(unsafe { libc::waitpid(pid.unwrap_or(-1), &mut status, libc::WNOHANG) }))?;
    // Without WUNTRACED and WCONTINUED there is nothing else to hear of.
    let status = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    Ok((pid > 0).then_some(Ended { pid: pid as i32, status: status as u8 }))
}

/// # Errors
/// The kernel's, for a number that is none of a signal as well.
pub fn kill(pid: i32, number: i32) -> io::Result<()> {
    // SAFETY: the call touches no memory of ours.
    super::result(unsafe { libc::kill(pid, number) }).map(drop)
}

/// A pid file: opened while paths mean what the caller wrote, filled later.
#[derive(Debug)]
pub struct PidFile(File);

impl PidFile {
    /// Mode 0600, emptied if it exists.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(path: &Path) -> io::Result<PidFile> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map(PidFile)
    }

    /// The decimal number and a newline.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(mut self, pid: u32) -> io::Result<()> {
        self.0.write_all(format!("{pid}\n").as_bytes())
    }
}

fn close_range(first: u32, last: u32) {
    if first > last {
        return;
    }
    // SAFETY: closes descriptors that no value of ours owns: callers run before any is opened, or just before exec.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if r == 0 {
        return;
    }
    // Kernels before 5.9: one by one, those that are open.
    let Ok(dir) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<u32> = dir.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| (first..=last).contains(fd)) {
        // SAFETY: as above.
        unsafe { libc::close(fd as RawFd) };
    }
}

/// `struct clone_args`, version 0.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_other_end_is_noticed_and_data_is_none() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let own = adopt_descriptor(reader.as_raw_fd()).unwrap();
        drop(reader);
        File::from(writer.try_clone().unwrap()).write_all(b"x").unwrap();
        assert!(!is_hung_up(&own));
        drop(writer);
        assert!(is_hung_up(&own));
        let null = File::open("/dev/null").unwrap();
        assert!(!is_hung_up(&null));
        assert_eq!(adopt_descriptor(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
