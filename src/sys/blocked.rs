//! The end of a process that made a system call which its filter blocks (seccomp(2), `SECCOMP_RET_TRAP`): one line that names
//! the call, on standard error and in the log, then death by SIGSYS.
//!
//! System calls: rt_sigaction and rt_sigprocmask (once); in the handler write, pwrite64, clock_gettime, fstat, and one that is blocked.

use std::io::{self, Write};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::calls;
use crate::base::Utc;

/// Where else than to standard error.
#[derive(Debug)]
pub enum Log {
    /// The end of this file.
    File(OwnedFd),
    /// A connected socket of the system log's, and what comes before the text.
    System(OwnedFd, String),
}

/// What a line looks like.
#[derive(Debug)]
pub enum Form {
    Text,
    /// An object, with these members beside time, level and message.
    Json(String),
}

/// The program's name, the form of a line on standard error and in a file, and the log. Only the first call counts.
pub fn tell_in(name: &'static str, (form, log): (Form, Option<Log>)) {
    let (fd, before) = match log {
        None => (None, None),
        Some(Log::File(fd)) => (Some(fd.into_raw_fd()), None),
        Some(Log::System(fd, before)) => (Some(fd.into_raw_fd()), Some(before)),
    };
    let _ = TELL.set(Tell { name, form, fd, before });
}

/// To be called in each thread before its filter comes.
///
/// # Errors
/// The kernel's.
pub fn prepare() -> io::Result<()> {
    let action =
        SigAction::new(SigHandler::SigAction(on_sigsys), SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK, SigSet::empty());
    // SAFETY: the handler allocates nothing, takes no lock and does not return.
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    // To a thread that blocks it the signal is death without a word.
    Ok(SigSet::from(Signal::SIGSYS).thread_unblock()?)
}

struct Tell {
    name: &'static str,
    form: Form,
    fd: Option<RawFd>,
    before: Option<String>,
}

static TELL: OnceLock<Tell> = OnceLock::new();

/// As far as SIGSYS goes, on machines of 64 bits.
#[repr(C)]
struct Info {
    signal: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    at: u64,
    call: i32,
    machine: u32,
}

/// `SYS_SECCOMP`, a value of `si_code`.
const BY_FILTER: i32 = 1;
const _: () = assert!(size_of::<Info>() <= size_of::<libc::siginfo_t>());

extern "C" fn on_sigsys(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a valid structure, of which these are the fields that SIGSYS has.
    let info = unsafe { &*info.cast::<Info>() };
    if info.code == BY_FILTER && cfg!(target_pointer_width = "64") {
        tell(info.call, arguments(context));
    }
    // SAFETY: its pointers are null: no program is executed. Every filter blocks it, and SIGSYS is blocked in here, which makes
    // it deadly (signal(7)).
    unsafe { libc::syscall(libc::SYS_execve, 0, 0, 0) };
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(128 + libc::SIGSYS) }
}

fn tell(number: i32, arguments: [u64; 3]) {
    let mut line = [0; LINE_MAX];
    let (name, before) = TELL.get().map_or(("spelt", None), |t| (t.name, t.before.as_deref()));
    let form = TELL.get().map_or(&Form::Text, |t| &t.form);
    let on_stderr = formed(&mut line, form, name, number, arguments);
    put(2, &line[..on_stderr]);
    let Some(fd) = TELL.get().and_then(|t| t.fd) else { return };
    match before {
        Some(before) => {
            let len = written(&mut line, (format_args!("{before}"), ""), name, number, arguments);
            put(fd, &line[..len]);
        }
        None => append(fd, &line[..on_stderr]),
    }
}

/// Returns the length of the line.
fn formed(line: &mut [u8], form: &Form, name: &str, number: i32, arguments: [u64; 3]) -> usize {
    match form {
        Form::Text => written(line, (format_args!(""), ""), name, number, arguments),
        Form::Json(members) => {
            let before = format_args!("{{\"time\":\"{}\",\"level\":\"error\",{members},\"message\":\"", Utc::now());
            written(line, (before, "\"}"), name, number, arguments)
        }
    }
}

/// Returns the length of the line. The text has nothing that JSON would escape.
fn written(
    line: &mut [u8],
    (before, after): (std::fmt::Arguments<'_>, &str),
    name: &str,
    number: i32,
    [a, b, c]: [u64; 3],
) -> usize {
    let mut to = io::Cursor::new(line);
    let call = calls::name(number.into()).unwrap_or("unknown");
    // What does not fit is left out.
    let _ = writeln!(
        to,
        "{before}{name}: system call {call}({a:#x}, {b:#x}, {c:#x}, ...), number {number}, was blocked by the filter: this is a \
         bug, please report it{after}"
    );
    to.position() as usize
}

fn put(fd: RawFd, bytes: &[u8]) {
    // SAFETY: pointer and length describe `bytes`. Descriptor 2 is always open, the other is never closed.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

fn append(fd: RawFd, bytes: &[u8]) {
    // SAFETY: an all-zero stat is a valid value of this plain C struct.
    let mut about: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one stat; the descriptor is never closed.
    unsafe { libc::fstat(fd, &mut about) };
    // SAFETY: pointer and length describe `bytes`.
    if unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), bytes.len(), about.st_size) } < 0 {
        // A pipe or a terminal has no places.
        put(fd, bytes);
    }
}

/// The first three.
fn arguments(context: *mut libc::c_void) -> [u64; 3] {
    // SAFETY: with SA_SIGINFO the third argument of a handler is the thread's ucontext.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    {
        let registers = &context.uc_mcontext.gregs;
        [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(|r| registers[r as usize] as u64)
    }
    #[cfg(target_arch = "aarch64")]
    {
        let registers = &context.uc_mcontext.regs;
        [registers[0], registers[1], registers[2]]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = context;
        [0; 3]
    }
}

const LINE_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_an_object_where_programs_read() {
        let mut line = [0; LINE_MAX];
        let form = Form::Json("\"pid\":7".into());
        let len = formed(&mut line, &form, "slirp4netns", libc::SYS_process_vm_writev as i32, [u64::MAX; 3]);
        let object: serde_json::Value = serde_json::from_slice(&line[..len]).unwrap();
        assert_eq!((&object["level"], &object["pid"]), (&"error".into(), &7.into()));
        assert!(object["message"].as_str().unwrap().starts_with("slirp4netns: system call process_vm_writev(0xffff"));
    }

    #[test]
    fn the_line_names_the_call_and_is_cut_where_there_is_no_room() {
        let mut line = [0; LINE_MAX];
        let len = written(&mut line, (format_args!("<27>"), ""), "pasta", libc::SYS_openat as i32, [1, 2, 3]);
        let text = String::from_utf8(line[..len].to_vec()).unwrap();
        assert!(text.starts_with("<27>pasta: system call openat(0x1, 0x2, 0x3, ...), number "), "{text}");
        assert!(text.ends_with("please report it\n"), "{text}");
        assert_eq!(written(&mut line[..10], (format_args!(""), ""), "pasta", 1, [0; 3]), 10);
    }
}
