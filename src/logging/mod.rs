//! Log messages: from the macros of crate `log` to standard error, the system log, or a file of limited size.
//!
//! | | start-up | foreground | background |
//! | --- | --- | --- | --- |
//! | log file given | file; errors to stderr too | file | file |
//! | otherwise | stderr, system log | stderr, system log (not when debugging) | system log |
//!
//! *Goals.* A message never blocks and never fails the data path: a full pipe, a stopped terminal, a busy system log or a
//! full disk costs messages, which are counted and reported by number once there is room. A file never outgrows its limit.
//! All descriptors are opened by [`init`], before the root directory goes; a system log that is restarted is found again as
//! long as its socket can be reached by name.
//!
//! *Limits.* A line has at most [`LINE_MAX_BYTES`]; control characters, which may come from a guest, are replaced. Repeated
//! messages on the data path go through a [`Limiter`]. The logger is the one global of the program, because crate `log`
//! wants it so.
//!
//! System calls: write, poll (stderr), socket, ioctl (`FIONBIO`), connect, sendto, close (system log), openat, fchmod,
//! readlink (file, at start), pwrite64, pread64, ftruncate, statx (file), getpid, clock_gettime.

mod file;
mod json;
mod limiter;
mod line;
mod sink;
mod stats;
mod summary;
mod syslog;

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{Level, LevelFilter, Metadata, Record};

use crate::base::{Clock, Instant};
use crate::config::Verbosity;
use crate::sys::blocked;
use file::LogFile;
use line::tidy;
use sink::{Counting, Stderr};
use syslog::Syslog;

pub use limiter::Limiter;
pub use line::plain;
pub use stats::stats_line;
pub use summary::{Assigned, Summary};

/// Where messages go, and how many.
#[derive(Clone, Copy, Debug)]
pub struct LogSetup<'a> {
    /// Name for the system log, and first word of the log file.
    pub ident: &'a str,
    pub verbosity: Verbosity,
    /// Standard error stays in use after start-up.
    pub foreground: bool,
    /// File to create, and its largest size in bytes.
    pub file: Option<(&'a Path, u64)>,
    /// Put `ident` before what went wrong on standard error, to tell it from the output of a spawned command.
    pub prefix: bool,
}

/// Opens the destinations and installs the logger. Only the first call counts.
///
/// # Errors
/// A sentence for the user.
pub fn init(setup: &LogSetup<'_>) -> Result<(), String> {
    let global = Global { clock: Clock::start(), sinks: Mutex::new(Sinks::open(setup, Path::new(SYSLOG_SOCKET))?) };
    let global = GLOBAL.get_or_init(|| global);
    // Fails only if it was called before.
    if log::set_logger(global).is_ok() {
        log::set_max_level(level_filter(setup.verbosity));
    }
    Ok(())
}

/// To be called when start-up is over and standard error is not ours any longer: in the background.
pub fn detach_stderr() {
    with_sinks(|s| s.stderr = None);
}

/// To be called when start-up is over, in the foreground: a log file is the only destination from now on.
pub fn started() {
    with_sinks(|s| {
        if s.file.is_some() {
            s.stderr = None;
        }
    });
}

/// A line the user asked for, whatever the verbosity: on standard error, or in the log file that has taken its place.
pub fn answer(text: &str) {
    if let Some(global) = GLOBAL.get() {
        let (now, text) = (global.clock.now(), tidy(text));
        let mut sinks = lock(&global.sinks);
        if let Some(stderr) = &mut sinks.stderr {
            stderr.put(Level::Info, now, &text);
        } else if let Some(file) = &mut sinks.file {
            file.put(Level::Info, now, &text);
        }
    }
}

/// Records why the program ends: everywhere but on standard error, which is the caller's to write.
pub fn last_words(text: &str) {
    if let Some(global) = GLOBAL.get() {
        let (now, text) = (global.clock.now(), tidy(text));
        let mut sinks = lock(&global.sinks);
        if let Some(file) = &mut sinks.file {
            file.put(Level::Error, now, &text);
        }
        if let Some(syslog) = &mut sinks.syslog {
            syslog.put(Level::Error, now, &text);
        }
    }
}

/// The log as a signal handler can write to it, if there is one.
pub fn last_resort() -> Option<blocked::Log> {
    let mut sinks = lock(&GLOBAL.get()?.sinks);
    let Sinks { file, syslog, .. } = &mut *sinks;
    match (file, syslog) {
        (Some(file), _) => file.sink_mut().descriptor().map(blocked::Log::File),
        (None, Some(syslog)) => syslog.sink_mut().descriptor().map(|(fd, before)| blocked::Log::System(fd, before)),
        (None, None) => None,
    }
}

/// The process id for the system log, where the one that this process sees means nothing: in a PID namespace of its own.
pub fn set_pid(pid: u32) {
    with_sinks(|s| {
        if let Some(log) = &mut s.syslog {
            log.sink_mut().set_pid(pid);
        }
    });
}

static GLOBAL: OnceLock<Global> = OnceLock::new();

struct Global {
    clock: Clock,
    sinks: Mutex<Sinks>,
}

impl log::Log for Global {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries have much to say at the lower levels.
        metadata.level() <= log::max_level() && metadata.target().starts_with("spelt")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string();
            lock(&self.sinks).write(record.level(), self.clock.now(), &text);
        }
    }

    fn flush(&self) {}
}

fn with_sinks(f: impl FnOnce(&mut Sinks)) {
    if let Some(global) = GLOBAL.get() {
        f(&mut lock(&global.sinks));
    }
}

fn lock(sinks: &Mutex<Sinks>) -> std::sync::MutexGuard<'_, Sinks> {
    sinks.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Sinks {
    stderr: Option<Counting<Stderr>>,
    syslog: Option<Counting<Syslog>>,
    file: Option<Counting<LogFile>>,
}

impl Sinks {
    fn open(setup: &LogSetup<'_>, syslog_socket: &Path) -> Result<Sinks, String> {
        let debug = setup.verbosity >= Verbosity::Debug;
        let stderr = Stderr::new(setup.prefix.then(|| setup.ident.to_string()), debug);
        let file = match setup.file {
            None => None,
            Some((path, max_bytes)) => {
                let header = format!("{} {}", setup.ident, env!("CARGO_PKG_VERSION"));
                let opened = LogFile::open(path, max_bytes, &header);
                Some(opened.map_err(|e| format!("Cannot open log file '{}': {e}", path.display()))?)
            }
        };
        let syslog = (file.is_none() && !(debug && setup.foreground)).then(|| Syslog::open(setup.ident, syslog_socket));
        Ok(Sinks {
            stderr: Some(Counting::new(stderr)),
            syslog: syslog.map(Counting::new),
            file: file.map(Counting::new),
        })
    }

    fn write(&mut self, level: Level, now: Instant, text: &str) {
        let text = tidy(text);
        if let Some(file) = &mut self.file {
            file.put(level, now, &text);
        }
        if let Some(syslog) = &mut self.syslog {
            syslog.put(level, now, &text);
        }
        if let Some(stderr) = &mut self.stderr
            && (self.file.is_none() || level == Level::Error)
        {
            stderr.put(level, now, &text);
        }
    }
}

fn level_filter(verbosity: Verbosity) -> LevelFilter {
    match verbosity {
        Verbosity::Quiet => LevelFilter::Warn,
        Verbosity::Normal => LevelFilter::Info,
        Verbosity::Debug => LevelFilter::Debug,
        Verbosity::Trace => LevelFilter::Trace,
    }
}

/// Longer messages are cut. Below a page, which is what a pipe that is ready for writing takes at once (pipe(7)).
pub const LINE_MAX_BYTES: usize = 2048;

const SYSLOG_SOCKET: &str = "/dev/log";

#[cfg(test)]
mod tests;
