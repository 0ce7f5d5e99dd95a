//! From the command line to validated values. Pure: no file, environment or system call; what must exist is checked by
//! the code that opens it.

mod types;

pub use types::{Assign, Command, Config, Dns, Exit, Id, Map, Mode, Personality, RunAs, Search, Target, Verbosity};

use std::ffi::{OsStr, OsString};

/// What to do, by the name this was started as and its arguments (without that name).
pub fn from_args(argv0: &OsStr, args: Vec<OsString>) -> Result<Command, Exit> {
    let _ = (argv0, args);
    Err(Exit { message: "not implemented yet".into(), status: 1 })
}

impl Config {
    /// One sentence for the first option that is understood but not implemented yet.
    pub fn unsupported(&self) -> Option<String> {
        None
    }
}
