//! From the command line to validated values. Pure: no file, environment or system call; that names of interfaces,
//! users and files exist is for the code that uses them.
//!
//! One table of options (`table`) feeds five command lines: `spelt run`, `spelt attach` and `spelt vm` (by clap, `cli`),
//! pasta and passt (chosen by `argv[0]`; getopt rules and exact messages that existing callers match, `getopt`, `peer`).
//! All hand each option, in the order given, to one builder (`build`), which starts from the `defaults`, checks the value at
//! once and, at the end, what depends on several options: port specifications against `-4` and `--no-tcp`, contradictions,
//! what spawning implies.
//! The list of options in each help is made from the table too (`help`), and that of the manual pages (`described`).
//! slirp4netns and pesto (by `argv[0]` too) have names and meanings of their own, hence tables of their own (`slirp4netns`,
//! `pesto`).
//! Options for later releases are read and checked too; [`Config::unsupported`] names the first of them (`planned`).
//!
//! Every refusal is one sentence with the offending value and the option, and exit status 1.
//!
//! System calls: none.

mod build;
mod cli;
mod defaults;
mod described;
mod getopt;
mod help;
mod peer;
pub mod pesto;
mod planned;
mod ports;
mod slirp4netns;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod types;
pub mod usage;
mod value;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use peer::Peer;

pub use cli::command;
pub use described::{Described, described};
pub use types::{
    Assign, Command, Config, Control, Dns, Exit, Id, Lack, Lacks, LogFormat, Map, Mode, Personality, Plug, RunAs,
    Search, Target, Verbosity,
};

/// The value of `--runas`, for commands with command lines of their own.
///
/// # Errors
/// What to give instead.
pub fn runas(text: &str) -> Result<RunAs, String> {
    value::runas(text)
}

/// What to do, by the name this was started as and its arguments (without that name).
pub fn from_args(argv0: &OsStr, args: Vec<OsString>) -> Result<Command, Exit> {
    let base = Path::new(argv0).file_name().unwrap_or(argv0).to_string_lossy();
    if base.contains("pasta") {
        return Peer::Pasta.parse(argv0, args);
    }
    if base.contains("passt") {
        return Peer::Passt.parse(argv0, args);
    }
    if base.contains("slirp4netns") {
        return slirp4netns::parse(argv0, args);
    }
    if base.contains("pesto") {
        return pesto::parse(argv0, args);
    }
    cli::parse(args)
}

/// The first argument and those behind it, if this was started as spelt: for commands that have no options in common with
/// the others.
pub fn own_word<'a>(argv0: &OsStr, args: &'a [OsString]) -> Option<(&'a str, &'a [OsString])> {
    let base = Path::new(argv0).file_name().unwrap_or(argv0).to_string_lossy();
    let (first, rest) = args.split_first()?;
    let is_ours = !OTHERS.iter().any(|other| base.contains(other));
    Some((first.to_str().filter(|_| is_ours)?, rest))
}

/// Names of other programs that have their own command lines.
const OTHERS: [&str; 4] = ["pasta", "passt", "slirp4netns", "pesto"];

fn version() -> &'static str {
    concat!("spelt ", env!("CARGO_PKG_VERSION"))
}
