//! Command lines of commands that have no options in common with the others: by clap's derivation, exit status 2 if wrong.

use std::ffi::OsString;
use std::io::Write;

use clap::{CommandFactory, FromArgMatches};

/// A command line that was not understood, or asked for help.
#[derive(Debug)]
pub struct Usage(clap::Error);

impl Usage {
    /// Prints it, and returns the exit status.
    pub fn print(&self) -> u8 {
        let help = !self.0.use_stderr();
        let text = self.0.render().to_string();
        // A reader that went away is nobody to tell.
        let _ = if help { write!(std::io::stdout(), "{text}") } else { write!(std::io::stderr(), "{text}") };
        if help { 0 } else { 2 }
    }
}

/// `args`: with the subcommand's name first.
pub fn parse<T: CommandFactory + FromArgMatches>(name: &'static str, args: Vec<OsString>) -> Result<T, Usage> {
    let command = T::command().name(name).version(env!("CARGO_PKG_VERSION")).propagate_version(true);
    let matches = command.try_get_matches_from(args).map_err(Usage)?;
    T::from_arg_matches(&matches).map_err(Usage)
}
