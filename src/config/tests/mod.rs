//! Whole command lines: those of existing callers field by field, then values, contradictions and messages.

mod callers;
mod messages;
mod options;
mod passt;
mod pesto;
mod rules;
mod slirp4netns;

use super::*;
use crate::base::{Addr, PerFamily};
use crate::fwd::ports::Ports;

fn parse(argv0: &str, args: &[&str]) -> Result<Command, Exit> {
    from_args(OsStr::new(argv0), args.iter().map(OsString::from).collect())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn config(command: Command) -> Config {
    match command {
        Command::Run(c) | Command::Attach(c) | Command::Machine(c) => *c,
        other => panic!("{other:?}"),
    }
}

fn pasta(line: &str) -> Config {
    config(parse("/usr/bin/pasta", &words(line)).unwrap_or_else(|e| panic!("{line}: {}", e.message)))
}

fn passt(line: &str) -> Config {
    config(parse("/usr/bin/passt", &words(line)).unwrap_or_else(|e| panic!("{line}: {}", e.message)))
}

fn spelt(line: &str) -> Config {
    config(parse("spelt", &words(line)).unwrap_or_else(|e| panic!("{line}: {}", e.message)))
}

fn refused(argv0: &str, line: &str) -> String {
    match parse(argv0, &words(line)) {
        Ok(command) => panic!("{line} was accepted: {command:?}"),
        Err(exit) => {
            assert_eq!(exit.status, 1, "{line}");
            exit.message
        }
    }
}

fn a(s: &str) -> Addr {
    s.parse::<std::net::IpAddr>().unwrap().into()
}

fn assign(s: &str, prefix: Option<u8>) -> Option<Assign> {
    Some(Assign { addr: a(s), prefix })
}

fn rules(ports: &Ports) -> Vec<String> {
    ports.rules(&Ports::EPHEMERAL_DEFAULT).unwrap().iter().map(|r| r.to_string()).collect()
}

fn by_pid(pid: i32) -> Mode {
    Mode::Attach { target: Target::Pid(pid), userns: None, netns_only: false }
}

fn by_path(path: &str) -> Mode {
    Mode::Attach { target: Target::Path(path.into()), userns: None, netns_only: false }
}

fn spawn(command: &[&str]) -> Mode {
    Mode::Spawn { command: command.iter().map(OsString::from).collect(), userns: None, netns_only: false }
}
