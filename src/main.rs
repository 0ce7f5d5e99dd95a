//! Chooses the mode and maps errors to exit statuses.

use std::io::Write;
use std::process::ExitCode;

use spelt::config::{self, Command};
use spelt::sys::{process, signal};
use spelt::{app, ctl, doctor, logging, pesto, respond};

fn main() -> ExitCode {
    signal::prepare();
    let _ = process::ensure_std_fds();
    let mut args = std::env::args_os();
    let argv0 = args.next().unwrap_or_else(|| "spelt".into());
    let args: Vec<_> = args.collect();
    match config::own_word(&argv0, &args) {
        Some(("ctl" | "list" | "complete", _)) => return ExitCode::from(ctl::main(args)),
        Some(("doctor", rest)) => return ExitCode::from(doctor::main(rest)),
        Some(("respond", _)) => return ExitCode::from(respond::respond(args)),
        Some(("announce", _)) => return ExitCode::from(respond::announce(args)),
        _ => {}
    }
    let config = match config::from_args(&argv0, args) {
        Ok(Command::Run(config) | Command::Attach(config) | Command::Machine(config)) => config,
        Ok(Command::Change(wanted)) => return ExitCode::from(pesto::main(&wanted)),
        Ok(Command::Print { text, stdout, status }) => {
            // A reader that went away is nobody to tell.
            let _ = if stdout { write!(std::io::stdout(), "{text}") } else { write!(std::io::stderr(), "{text}") };
            return ExitCode::from(status);
        }
        Err(exit) => {
            let _ = writeln!(std::io::stderr(), "{}", exit.message);
            return ExitCode::from(exit.status);
        }
    };
    if let Some(text) = config.unsupported() {
        let _ = writeln!(std::io::stderr(), "{}: {text}", config.personality.name());
        return ExitCode::FAILURE;
    }
    let done = if config.check { check(&config) } else { app::start(&config) };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            let text = format!("{e:#}");
            if !logging::last_words(&text) {
                let _ = writeln!(std::io::stderr(), "{}: {}", config.personality.name(), logging::plain(&text));
            }
            ExitCode::FAILURE
        }
    }
}

/// Nothing is running and nothing logged yet: what there is to say goes to the terminal.
fn check(config: &config::Config) -> anyhow::Result<u8> {
    for warning in &config.warnings {
        let _ = writeln!(std::io::stderr(), "{}: {warning}", config.personality.name());
    }
    let text = app::check(config)?;
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(0)
}
