//! The child's side of `spelt run`: set-up inside, then a small init.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::cover::{Cover, Watched, uncover_proc};
use super::upkeep::{self, Keeper, Resolv};
use super::{Error, Spawn, Tap, configure, report};
use crate::sys::process::Fork;
use crate::sys::signal::Signals;
use crate::sys::{fdpass, process, signal};

/// Whoever started us, as the host knows them.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

/// The word to start the command.
pub const GO: &[u8] = b"go";

/// Everything the child does. Does not return: the memory is a copy of the parent's, whose destructors must not run here.
pub fn main(what: &Spawn, ids: Ids, channel: OwnedFd) -> ! {
    // The logger's descriptor is about to be closed, and its number to be used again.
    log::set_max_level(log::LevelFilter::Off);
    process::close_inherited(Some(channel.as_raw_fd()));
    let _ = prctl::set_name(c"spelt-init");
    let mut cover = None;
    let outcome = prepare(what, ids, &mut cover);
    let sent = report::send(channel.as_fd(), &outcome);
    if outcome.is_err() || sent.is_err() {
        process::exit_now(1);
    }
    // Before the command can change anything.
    let resolv = |cover: &Cover| Some(Resolv { file: cover.file().ok()?, text: what.resolv_conf.clone()? });
    let resolv = cover.as_ref().and_then(resolv);
    let keeper = what.upkeep.then(|| Keeper::new(&what.interface, resolv)).and_then(Result::ok);
    // Only the parent holds the tap from here on: its end is the end of the link.
    drop(outcome);
    // Death of the parent before the death signal was armed shows here.
    if !matches!(fdpass::recv(channel.as_fd(), GO.len()), Ok((word, _)) if word == GO) {
        process::exit_now(1);
    }
    // Without a /proc of its own there is no place that keeps the file to be mounted again.
    let cover = cover.filter(|_| what.pid_namespace).and_then(|cover| cover.watch().ok());
    process::exit_now(run(what, keeper.map(|keeper| (channel, keeper)), cover))
}

fn prepare(what: &Spawn, ids: Ids, cover: &mut Option<Cover>) -> Result<Tap, Error> {
    let step = |e: nix::Error| io::Error::from(e);
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(step)
        .map_err(Error::io("cannot tie the namespace to this process"))?;
    signal::block_all().map_err(Error::io("cannot block signals"))?;
    let mut unmapped = Vec::new();
    if what.user_namespace {
        unmapped = map_ids(ids);
    } else {
        // The kernel does it by itself for a mount namespace of another user namespace: nothing mounted here may show on
        // the host.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
            .map_err(step)
            .map_err(Error::io("cannot keep the mounts inside apart from the host's"))?;
    }
    let mut tap = configure::make(&what.interface)?;
    tap.warnings.append(&mut unmapped);
    let mut warn = |what: &str, r: io::Result<()>| {
        if let Err(e) = r {
            tap.warnings.push(format!("{what}: {e}"));
        }
    };
    // The kernel's default lets nobody ping. Group 0 is the only one of our user namespace, and may be of one we joined.
    let allow = |groups| fs::write("/proc/sys/net/ipv4/ping_group_range", groups);
    let ping = if what.user_namespace { allow("0 0") } else { allow("0 2147483647").or_else(|_| allow("0 0")) };
    warn("unprivileged ping is off inside", ping);
    warn("the host name stays", set_hostname(what));
    if let Some(text) = &what.resolv_conf {
        let made = Cover::make(text).map(|made| *cover = Some(made));
        warn("the command gets no resolv.conf of its own", made);
    }
    let covered = what.pid_namespace && {
        let mounted = mount_proc();
        let is_mounted = mounted.is_ok();
        warn("/proc shows the host's processes", mounted);
        is_mounted
    };
    if cover.is_some() && !covered {
        warn("/proc cannot be seen", uncover_proc());
    }
    Ok(tap)
}

/// A process may map its own ids, and only those, if it gives up setgroups(2) first. But id 0 only if it had CAP_SETFCAP
/// (user_namespaces(7)), which containers take from their root. Returns what is different without: sentences.
fn map_ids(ids: Ids) -> Vec<String> {
    let mut without = Vec::new();
    let mut map = |kind: &str, id: u32| {
        if let Err(e) = fs::write(format!("/proc/self/{kind}_map"), format!("0 {id} 1")) {
            let denied = e.raw_os_error() == Some(libc::EPERM);
            let hint = if denied && id == 0 { "; a root user needs CAP_SETFCAP for it" } else { "" };
            without.push(format!(
                "the command is not root inside: cannot map {kind} {id} (/proc/self/{kind}_map): {e}{hint}"
            ));
        }
    };
    map("uid", ids.uid);
    // Its failure shows in the map's.
    let _ = fs::write("/proc/self/setgroups", "deny");
    map("gid", ids.gid);
    without
}

fn set_hostname(what: &Spawn) -> io::Result<()> {
    let mut name = match &what.hostname {
        Some(name) => OsString::from(name),
        None => {
            let mut name = OsString::from(format!("{}-", what.program));
            name.push(nix::unistd::gethostname()?);
            name
        }
    }
    .into_vec();
    name.truncate(HOSTNAME_MAX_BYTES);
    Ok(nix::unistd::sethostname(OsStr::from_bytes(&name))?)
}

fn mount_proc() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("proc"), PROC, Some("proc"), flags, None::<&str>)?)
}

/// Starts the command and looks after it and its orphans, and after the interface; returns the command's status.
fn run(what: &Spawn, mut upkeep: Option<(OwnedFd, Keeper)>, mut cover: Option<Watched>) -> i32 {
    let command = match process::fork() {
        Ok(Fork::Child) => become_command(what),
        Ok(Fork::Parent(pid)) => pid,
        Err(e) => {
            eprintln!("{}: cannot start a process for the command: {e}", what.program);
            return EXIT_FAILED;
        }
    };
    // Signals as events, where there is something else to wait for.
    let mut signals = Some(()).filter(|()| upkeep.is_some() || cover.is_some()).and_then(|()| Signals::all().ok());
    loop {
        if let Some(status) = reap(command) {
            return status;
        }
        let got = match &mut signals {
            Some(signals) => {
                wait_or_serve(signals, &mut upkeep, &mut cover);
                signals.take().unwrap_or_default()
            }
            None => signal::wait().ok(),
        };
        // What the terminal sends, its whole process group has got already.
        if let Some(got) = got.filter(|got| got.number != libc::SIGCHLD && got.from_process) {
            let _ = process::kill(command.as_raw(), got.number);
        }
    }
}

/// Returns when there may be a signal.
fn wait_or_serve(signals: &Signals, upkeep: &mut Option<(OwnedFd, Keeper)>, cover: &mut Option<Watched>) {
    let (requested, moved) = {
        let channel = upkeep.as_ref().map_or(signals.as_fd(), |(channel, _)| channel.as_fd());
        let events = cover.as_ref().map_or(signals.as_fd(), AsFd::as_fd);
        let mut fds = [signals.as_fd(), channel, events].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            return;
        }
        (fds[1].any().unwrap_or(true), fds[2].any().unwrap_or(true))
    };
    if let Some(cover) = cover.as_mut().filter(|_| moved) {
        cover.hear();
    }
    if requested && upkeep.as_mut().is_some_and(|(channel, keeper)| !upkeep::serve(channel, keeper)) {
        *upkeep = None;
    }
}

/// Takes all that have ended; the command's status if it was among them.
fn reap(command: Pid) -> Option<i32> {
    let mut status = None;
    loop {
        match process::reap(None) {
            Ok(Some(ended)) if ended.pid == command.as_raw() => status = Some(i32::from(ended.status)),
            Ok(Some(_)) => {}
            Ok(None) => return status,
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return status,
            Err(_) => return status.or(Some(EXIT_FAILED)),
        }
    }
}

/// In the fork that is to be the command.
fn become_command(what: &Spawn) -> ! {
    if !what.pid_namespace {
        // There the end of PID 1 ends it.
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    }
    if let Some(was) = what.open_files {
        let _ = process::restore_open_files(was);
    }
    signal::reset();
    process::close_inherited(None);
    let (program, args) = command_line(&what.command);
    let e = process::exec(&program, &args);
    let name = program.to_string_lossy();
    let (text, status) = match e.raw_os_error() {
        // The search also ends with "permission denied" if only some directory of PATH was closed to us.
        Some(libc::EACCES) if !name.contains('/') && !in_path(&name) => {
            (format!("command `{name}` not found in PATH"), EXIT_NOT_FOUND)
        }
        Some(libc::ENOENT) if !name.contains('/') => (format!("command `{name}` not found in PATH"), EXIT_NOT_FOUND),
        Some(libc::ENOENT) if Path::new(&*name).exists() => {
            (format!("cannot run `{name}`: the interpreter or loader it asks for does not exist"), EXIT_NOT_FOUND)
        }
        Some(libc::ENOENT | libc::ENOTDIR) => (format!("command `{name}` not found"), EXIT_NOT_FOUND),
        Some(libc::EACCES) => {
            (format!("cannot run `{name}`: it is not executable (permission denied)"), EXIT_NOT_EXECUTABLE)
        }
        _ => (format!("cannot run `{name}`: {e}"), EXIT_NOT_EXECUTABLE),
    };
    eprintln!("{}: {text}", what.program);
    process::exit_now(status)
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Program and arguments; the user's shell, told by the dash that it is a login shell, if there is no command.
fn command_line(command: &[OsString]) -> (CString, Vec<CString>) {
    // No argument of a running program holds a zero byte.
    let c = |s: &OsStr| CString::new(s.as_bytes()).unwrap_or_default();
    if let Some(program) = command.first() {
        return (c(program), command.iter().map(|a| c(a)).collect());
    }
    let shell = std::env::var_os("SHELL").filter(|s| !s.is_empty()).unwrap_or_else(|| "/bin/sh".into());
    let mut dashed = OsString::from("-");
    dashed.push(Path::new(&shell).file_name().unwrap_or(&shell));
    (c(&shell), vec![c(&dashed)])
}

const PROC: &str = "/proc";
/// `__NEW_UTS_LEN`.
const HOSTNAME_MAX_BYTES: usize = 64;
const EXIT_FAILED: i32 = 1;
/// As shells do (POSIX, Shell Command Language §2.8.2).
const EXIT_NOT_EXECUTABLE: i32 = 126;
const EXIT_NOT_FOUND: i32 = 127;
