use std::os::unix::net::UnixDatagram;

use nix::sys::wait::waitpid;

use super::*;
use crate::sys::process;

fn setup(verbosity: Verbosity, foreground: bool) -> LogSetup<'static> {
    LogSetup {
        ident: "pasta",
        verbosity,
        foreground,
        format: LogFormat::Text,
        only: None,
        control: None,
        prefix: false,
    }
}

fn system_log(syslog: &Path) -> SystemLog<'_> {
    SystemLog { syslog, journal: Path::new("/no/socket") }
}

#[test]
fn the_system_log_is_used_unless_debugging_in_the_foreground() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let heard = |setup: LogSetup<'_>| {
        let mut sinks = Sinks::open(&setup, system_log(&path)).unwrap();
        sinks.stderr = None;
        sinks.write((Level::Warn, "app"), Instant::ZERO, "text", &Map::new());
        sinks.release().unwrap();
        socket.recv(&mut [0; 100]).is_ok()
    };
    assert!(heard(setup(Verbosity::Normal, true)));
    assert!(heard(setup(Verbosity::Quiet, false)));
    assert!(heard(setup(Verbosity::Debug, false)));
    assert!(!heard(setup(Verbosity::Debug, true)));
    let file = dir.path().join("file");
    assert!(!heard(LogSetup { only: Some(Only::File(&file, 40960)), ..setup(Verbosity::Normal, false) }));
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("WARNING: text\n"));
}

/// What a log file says when the process that has opened it goes on as another.
fn log_of_a_fork(format: LogFormat) -> (u32, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let setup = LogSetup { only: Some(Only::File(&path, 40960)), format, ..setup(Verbosity::Normal, false) };
    let mut sinks = Sinks::open(&setup, system_log(Path::new("/no/socket"))).unwrap();
    let mut say = |text, fields: &Map<String, Value>| sinks.write((Level::Info, "app"), Instant::ZERO, text, fields);
    say("before", &Map::from_iter([("port".to_string(), 80.into())]));
    say("also before", &Map::new());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    match process::fork().unwrap() {
        process::Fork::Child => {
            let _ = sinks.release();
            sinks.write((Level::Warn, "app"), Instant::ZERO, "after", &Map::new());
            process::exit_now(0)
        }
        process::Fork::Parent(child) => {
            waitpid(child, None).unwrap();
            (child.as_raw() as u32, std::fs::read_to_string(&path).unwrap())
        }
    }
}

#[test]
fn the_first_line_names_the_process_that_goes_on() {
    let (pid, text) = log_of_a_fork(LogFormat::Text);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("pasta ") && lines[0].ends_with(&format!(" ({pid})")), "{text}");
    assert_eq!(lines[1..], ["0.0000: info:    before", "0.0000: info:    also before", "0.0000: WARNING: after"]);
}

#[test]
fn every_object_names_the_process_that_goes_on() {
    let (pid, text) = log_of_a_fork(LogFormat::Json);
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(objects[0]["message"].as_str().unwrap().ends_with(&format!(" ({pid})")), "{text}");
    let said: Vec<&Value> = objects[1..].iter().map(|o| &o["message"]).collect();
    assert_eq!(said, ["before", "also before", "after"]);
    assert_eq!((&objects[1]["port"], &objects[1]["target"]), (&80.into(), &"app".into()));
    let instance = pid.to_string();
    assert!(objects.iter().all(|o| o["pid"] == pid && o["instance"] == *instance), "{text}");
}

#[test]
fn in_the_foreground_nothing_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let setup = LogSetup { only: Some(Only::File(&path, 40960)), ..setup(Verbosity::Normal, true) };
    let mut sinks = Sinks::open(&setup, system_log(Path::new("/no/socket"))).unwrap();
    let lines = || std::fs::read_to_string(&path).unwrap().lines().count();
    assert_eq!(lines(), 1);
    sinks.write((Level::Info, "app"), Instant::ZERO, "text", &Map::new());
    assert_eq!(lines(), 2);
}

#[test]
fn a_first_line_that_cannot_be_written_is_told() {
    let of = |foreground| {
        let setup =
            LogSetup { only: Some(Only::File(Path::new("/dev/full"), 40960)), ..setup(Verbosity::Normal, foreground) };
        Sinks::open(&setup, system_log(Path::new("/no/socket")))
    };
    let error = of(true).err().unwrap();
    assert_eq!(error, "Cannot open log file '/dev/full': No space left on device (os error 28)");
    assert_eq!(of(false).unwrap().release().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn a_log_file_that_cannot_be_opened_is_named() {
    let only = Some(Only::File(Path::new("/no/such/file"), 40960));
    let setup = LogSetup { only, ..setup(Verbosity::Normal, false) };
    let error = Sinks::open(&setup, system_log(Path::new("/no/socket"))).err().unwrap();
    assert_eq!(error, "Cannot open log file '/no/such/file': No such file or directory (os error 2)");
}

#[test]
fn only_our_own_messages_are_logged() {
    let sinks = Sinks::open(&setup(Verbosity::Normal, false), system_log(Path::new("/no/socket"))).unwrap();
    let global = Global { clock: Clock::start(), sinks: Mutex::new(sinks) };
    let enabled = |target| log::Log::enabled(&global, &Metadata::builder().target(target).level(Level::Error).build());
    log::set_max_level(LevelFilter::Info);
    assert!(enabled("spelt::app"));
    assert!(!enabled("mio::poll"));
}
