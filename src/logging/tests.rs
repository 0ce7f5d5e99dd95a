use std::os::unix::net::UnixDatagram;

use super::*;

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
