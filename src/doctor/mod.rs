//! `spelt doctor`: what this machine allows, a line each, and how to mend what it does not.
//!
//! What can be tried is tried, in children that end at once: namespaces and a tap in them, and the whole isolation of the
//! process; settings are read to tell why something failed. Nothing is changed and nothing stays.
//!
//! `gather` finds `Facts`; `isolation` and `network` judge them without looking at anything else; `print` shows the
//! `Finding`s. To do without a finding that is `State::Missing` takes an option, if there is a way at all; without one
//! that is `State::Warning` a guest has less.
//!
//! System calls: openat, read, close, statx, faccessat, getrlimit, getgroups, pipe2, clone3, wait4, socket, setsockopt,
//! seccomp (a question), landlock_create_ruleset (a question), netlink as in `host`; in children those of `ns` and `sandbox`.

mod facts;
mod gather;
mod isolation;
mod network;
mod print;
mod trial;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use serde::Serialize;

use facts::Facts;

/// Carries out the command, of whose line `args` is what comes after its name, and returns the exit status: 0 if nothing is
/// missing. To be called while this process has one thread.
pub fn main(args: &[OsString]) -> u8 {
    let mut json = false;
    for arg in args {
        match arg.to_str() {
            Some("--json") => json = true,
            Some("-h" | "--help") => return tell(HELP),
            Some("-V" | "--version") => return tell(concat!("spelt ", env!("CARGO_PKG_VERSION"), "\n")),
            _ => {
                let text = arg.to_string_lossy();
                let sentence = format!("error: unexpected argument '{text}' found; 'spelt doctor --help' tells more");
                let _ = writeln!(std::io::stderr(), "{sentence}");
                return 1;
            }
        }
    }
    let findings = judge(&gather::gather());
    if json {
        tell(&format!("{}\n", print::json(&findings)));
    } else {
        tell(&print::text(
            &findings,
            print::may_colour(std::io::stdout().is_terminal(), &|name| std::env::var_os(name)),
        ));
    }
    u8::from(findings.iter().any(|f| f.state == State::Missing))
}

/// A reader that went away is nobody to tell.
fn tell(text: &str) -> u8 {
    let _ = write!(std::io::stdout(), "{text}");
    0
}

/// All findings, in the order in which to mend them.
fn judge(facts: &Facts) -> Vec<Finding> {
    let mut all = isolation::judge(facts);
    all.extend(network::judge(facts));
    all
}

/// What one check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// For programs; never changes.
    id: &'static str,
    state: State,
    /// What was looked at, for people.
    what: &'static str,
    found: String,
    /// One sentence, which names a command or a file; `None`: nothing is wrong.
    mend: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// A guest does without something.
    Warning,
    /// `spelt run` does not start.
    Missing,
}

impl Finding {
    fn ok(id: &'static str, what: &'static str, found: impl Into<String>) -> Finding {
        Finding { id, state: State::Ok, what, found: found.into(), mend: None }
    }

    fn warning(id: &'static str, what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { state: State::Warning, mend: Some(mend.into()), ..Finding::ok(id, what, found) }
    }

    fn missing(id: &'static str, what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { state: State::Missing, ..Finding::warning(id, what, found, mend) }
    }
}

const HELP: &str = "\
Say what this machine allows spelt to do, and how to mend what it does not

Usage: spelt doctor [--json]

      --json     One JSON array of objects instead of lines for people
  -h, --help     Show this help and exit
  -V, --version  Show the version and exit

Each line has a state: 'ok'; 'warning': guests do without something; 'missing':
'spelt run' does not start. Exit status 1 if something is missing, else 0.
Run it as the user, and in the place, that spelt is to run as and in: a service
or a container may be allowed less than your shell.
";

#[cfg(test)]
mod tests {
    use super::facts::tests::healthy;
    use super::*;

    #[test]
    fn a_healthy_machine_has_nothing_to_mend() {
        let findings = judge(&healthy());
        let bad: Vec<_> = findings.iter().filter(|f| f.state != State::Ok).collect();
        assert!(bad.is_empty(), "{bad:?}");
        assert!(findings.iter().all(|f| f.mend.is_none() && !f.found.is_empty()), "{findings:?}");
    }

    #[test]
    fn identifiers_are_unique() {
        let findings = judge(&healthy());
        let mut ids: Vec<_> = findings.iter().map(|f| f.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), findings.len());
    }

    #[test]
    fn a_machine_without_anything_is_told_what_to_do() {
        let findings = judge(&Facts::default());
        assert!(findings.iter().filter(|f| f.state == State::Missing).count() >= 5, "{findings:?}");
        for finding in findings.iter().filter(|f| f.state != State::Ok) {
            let mend = finding.mend.as_deref().unwrap_or_default();
            assert!(mend.contains('`') || mend.contains('/'), "{finding:?}");
        }
    }
}
