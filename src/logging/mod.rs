//! Log messages: from the macros of crate `log` to standard error, the system log, or a file of limited size.
//!
//! | | start-up | foreground | background |
//! | --- | --- | --- | --- |
//! | log file or descriptor given | that; errors to stderr too | that | that |
//! | stderr is the journal's | journal | journal | journal |
//! | otherwise | stderr, system log | stderr, system log (not when debugging) | system log |
//!
//! *Form*: lines of text, or of JSON where programs are to read them ([`LogFormat`]); the system log has its own, and where the
//! journal is behind it, that is spoken to in its own words.
//!
//! *Goals.* A message never blocks and never fails the data path: a full pipe, a stopped terminal, a busy system log or a
//! full disk costs messages, which are counted and reported by number once there is room. A file never outgrows its limit.
//! All descriptors are opened by [`init`], before the root directory goes; a system log that is restarted is found again as
//! long as its socket can be reached by name. The journal's socket outlives it (systemd listens there).
//!
//! *Who says it.* Messages, and the first line of a file, name this process. Where it is to go to the background, its number is
//! that of another afterwards. So what there is to say before waits for [`forked`], or for the end, if that comes first. Lines
//! of text on standard error, which name nobody, do not wait.
//!
//! *Limits.* A line has at most [`LINE_MAX_BYTES`]; control characters, which may come from a guest, are replaced. Repeated
//! messages on the data path go through a [`Limiter`]. The logger is the one global of the program, because crate `log`
//! wants it so.
//!
//! System calls: write, poll (stderr, descriptor), sendto (descriptor), socket, ioctl (`FIONBIO`), connect, sendto, close (system log), openat, fchmod,
//! readlink (file, at start), pwrite64, pread64, ftruncate, statx (file), getpid, clock_gettime.

mod datagrams;
mod descriptor;
mod file;
mod journal;
mod json;
mod limiter;
mod line;
mod message;
mod sink;
mod stats;
mod summary;
mod syslog;

use std::io;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{Level, LevelFilter, Metadata, Record};
use serde_json::{Map, Value};

use crate::base::{Clock, Instant};
use crate::config::{LogFormat, Verbosity};
use crate::sys::blocked;
use descriptor::Descriptor;
use file::LogFile;
use journal::Journal;
use line::tidy;
use message::{Message, Source};
use sink::{Counting, Sink, Stderr};
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
    /// Standard error stays in use after start-up; else [`forked`] is to be called before that is over.
    pub foreground: bool,
    pub format: LogFormat,
    /// The only destination after start-up, if it is given.
    pub only: Option<Only<'a>>,
    /// Path of the control socket, if one was named: what tells this instance from others, instead of its process id.
    pub control: Option<&'a Path>,
    /// Put `ident` before what went wrong on standard error, to tell it from the output of a spawned command.
    pub prefix: bool,
}

/// A destination that was asked for.
#[derive(Clone, Copy, Debug)]
pub enum Only<'a> {
    /// A file to create, and its largest size in bytes.
    File(&'a Path, u64),
    /// An inherited descriptor.
    Descriptor(i32),
}

/// Opens the destinations and installs the logger. Only the first call counts.
///
/// # Errors
/// A sentence for the user.
pub fn init(setup: &LogSetup<'_>) -> Result<(), String> {
    let system_log = SystemLog { syslog: Path::new(SYSLOG_SOCKET), journal: Path::new(JOURNAL_SOCKET) };
    let global = Global { clock: Clock::start(), sinks: Mutex::new(Sinks::open(setup, system_log)?) };
    let global = GLOBAL.get_or_init(|| global);
    // Fails only if it was called before.
    if log::set_logger(global).is_ok() {
        log::set_max_level(level_filter(setup.verbosity));
    }
    Ok(())
}

/// That the descriptor may be [`Only::Descriptor`].
///
/// # Errors
/// A sentence for the user.
pub fn check_descriptor(number: i32) -> Result<(), String> {
    Descriptor::adopt(number, LogFormat::Text).map(drop)
}

/// To be called by the process that goes on in the background, as soon as it does: what has waited is said, in its name.
///
/// # Errors
/// A sentence for the user.
pub fn forked() -> Result<(), String> {
    let Some(global) = GLOBAL.get() else { return Ok(()) };
    lock(&global.sinks).release().map_err(|e| format!("Cannot write to the log file: {e}"))
}

/// To be called when start-up is over and standard error is not ours any longer: in the background.
pub fn detach_stderr() {
    with_sinks(|s| s.stderr = None);
}

/// To be called when start-up is over, in the foreground: what was asked for is the only destination from now on.
pub fn started() {
    with_sinks(|s| {
        if s.only.is_some() {
            s.stderr = None;
        }
    });
}

/// A line the user asked for, whatever the verbosity: on standard error, or where that goes instead.
pub fn answer(text: &str) {
    if let Some(global) = GLOBAL.get() {
        let mut sinks = lock(&global.sinks);
        let Sinks { stderr, system, only, journal, source, .. } = &mut *sinks;
        let (text, fields) = (tidy(text), Map::new());
        let message = Message::of_the_log(Level::Info, global.clock.now(), &text, &fields, source);
        if let Some(stderr) = stderr {
            stderr.put(&message);
        } else if let Some(only) = only {
            only.put(&message);
        } else if let Some(system) = system.as_mut().filter(|_| *journal) {
            system.put(&message);
        }
    }
}

/// Records why the program ends. False: on standard error it is the caller's to write.
pub fn last_words(text: &str) -> bool {
    let Some(global) = GLOBAL.get() else { return false };
    let mut sinks = lock(&global.sinks);
    // What fails here fails below, and there is nobody to tell.
    let _ = sinks.release();
    let Sinks { system, only, journal, format, source, .. } = &mut *sinks;
    let (text, fields) = (tidy(text), Map::new());
    let message = Message::of_the_log(Level::Error, global.clock.now(), &text, &fields, source);
    for sink in [only, system].into_iter().flatten() {
        sink.put(&message);
    }
    if *format == LogFormat::Json {
        Stderr { format: *format, prefix: false, timestamps: false }.put(&message);
    }
    *journal || *format == LogFormat::Json
}

/// The log as a signal handler can write to it: what standard error has instead of text, if anything, and where else the line
/// is to go.
pub fn last_resort() -> (blocked::Form, Option<blocked::Log>) {
    let Some(global) = GLOBAL.get() else { return (blocked::Form::Text, None) };
    let sinks = lock(&global.sinks);
    let form = match sinks.format {
        LogFormat::Text => blocked::Form::Text,
        LogFormat::Json => {
            let (pid, instance) = (std::process::id(), Value::from(sinks.source.instance()));
            blocked::Form::Json(format!("\"target\":\"sandbox\",\"pid\":{pid},\"instance\":{instance}"))
        }
    };
    let sink = sinks.only.as_ref().or(sinks.system.as_ref());
    (form, sink.and_then(|s| s.sink().last_resort(&sinks.source)))
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
            let fields = message::fields(record.key_values());
            let target = record.target();
            let target = target.strip_prefix("spelt::").unwrap_or(target);
            lock(&self.sinks).write((record.level(), target), self.clock.now(), &text, &fields);
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

type Place = Option<Counting<Box<dyn Sink>>>;

struct Sinks {
    stderr: Option<Counting<Stderr>>,
    /// The system log or the journal.
    system: Place,
    /// What was asked for.
    only: Place,
    /// The journal has what standard error would have.
    journal: bool,
    /// What waits for the process that is to be named; `None`: it is this one.
    held: Option<Vec<Held>>,
    format: LogFormat,
    source: Source,
}

/// A message that waits.
struct Held {
    level: Level,
    at: Instant,
    text: String,
    target: String,
    fields: Map<String, Value>,
}

impl Sinks {
    fn open(setup: &LogSetup<'_>, system_log: SystemLog<'_>) -> Result<Sinks, String> {
        let debug = setup.verbosity >= Verbosity::Debug;
        let source =
            Source { ident: setup.ident.into(), control: setup.control.map(|path| path.display().to_string()) };
        let stderr = Stderr { format: setup.format, prefix: setup.prefix, timestamps: debug };
        let only: Option<Box<dyn Sink>> = match setup.only {
            None => None,
            Some(Only::File(path, max_bytes)) => {
                let cannot = |e| format!("Cannot open log file '{}': {e}", path.display());
                let mut file = LogFile::open(path, max_bytes, setup.format, &source).map_err(cannot)?;
                if setup.foreground {
                    file.begin(&source).map_err(cannot)?;
                }
                Some(Box::new(file))
            }
            Some(Only::Descriptor(number)) => Some(Box::new(Descriptor::adopt(number, setup.format)?)),
        };
        let behind = only.is_none() && journal::is_behind(&io::stderr());
        let instead = if behind && setup.format == LogFormat::Text { Journal::open(system_log.journal) } else { None };
        let journal = instead.is_some();
        let system: Option<Box<dyn Sink>> = match instead {
            Some(instead) => Some(Box::new(instead)),
            // It has all that is written to standard error already.
            None if only.is_some() || behind || debug && setup.foreground => None,
            None => Some(system_log.open(setup.ident)),
        };
        Ok(Sinks {
            stderr: (!journal).then(|| Counting::new(stderr)),
            system: system.map(Counting::new),
            only: only.map(Counting::new),
            journal,
            held: (!setup.foreground).then(Vec::new),
            format: setup.format,
            source,
        })
    }

    /// Says what has waited.
    fn release(&mut self) -> io::Result<()> {
        let Sinks { stderr, system, only, held, format, source, .. } = self;
        let Some(held) = held.take() else { return Ok(()) };
        let begun = only.as_mut().map_or(Ok(()), |sink| sink.begin(source));
        for Held { level, at, text, target, fields } in &held {
            let message = Message { level: *level, at: *at, text, target, fields, source };
            put([only, system], &message);
            if *format == LogFormat::Json {
                put_on_stderr(stderr, only, &message);
            }
        }
        begun
    }

    fn write(&mut self, (level, target): (Level, &str), at: Instant, text: &str, fields: &Map<String, Value>) {
        let Sinks { stderr, system, only, held, format, source, .. } = self;
        let text = tidy(text);
        let message = Message { level, at, text: &text, target, fields, source };
        if held.is_none() || *format == LogFormat::Text {
            put_on_stderr(stderr, only, &message);
        }
        match held {
            None => put([only, system], &message),
            Some(held) => {
                let (text, target, fields) = (text.into_owned(), target.to_owned(), fields.clone());
                held.push(Held { level, at, text, target, fields });
            }
        }
    }
}

fn put(sinks: [&mut Place; 2], message: &Message<'_>) {
    sinks.into_iter().flatten().for_each(|sink| sink.put(message));
}

fn put_on_stderr(stderr: &mut Option<Counting<Stderr>>, only: &Place, message: &Message<'_>) {
    if let Some(stderr) = stderr
        && (only.is_none() || message.level == Level::Error)
    {
        stderr.put(message);
    }
}

/// Sockets of the system's log.
#[derive(Clone, Copy)]
struct SystemLog<'a> {
    syslog: &'a Path,
    journal: &'a Path,
}

impl SystemLog<'_> {
    fn open(&self, ident: &str) -> Box<dyn Sink> {
        let journal = if journal::is_at(self.syslog) { Journal::open(self.journal) } else { None };
        match journal {
            Some(journal) => Box::new(journal),
            None => Box::new(Syslog::open(ident, self.syslog)),
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
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

#[cfg(test)]
mod tests;
