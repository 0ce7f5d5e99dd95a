//! The pasta command line: what callers of that program give and expect.

use std::ffi::{OsStr, OsString};

use super::build::{Builder, Given, Operands};
use super::getopt::{Getopt, Item, Order};
use super::table::{Def, Face, OPTIONS, Opt};
use super::types::{Command, Exit, Personality, Target};
use super::{help, value};

pub(super) fn parse(argv0: &OsStr, args: Vec<OsString>) -> Result<Command, Exit> {
    let mut builder = Builder::new(Personality::Pasta);
    let mut operands = Vec::new();
    let known = OPTIONS.iter().filter(|d| d.face != Face::Spelt);
    for item in Getopt::new(argv0, args, known, Order::OptionsFirst) {
        match item {
            Ok(Item::Option { def, .. }) if def.opt == Opt::Help => return Ok(print(usage())),
            Ok(Item::Option { def, .. }) if def.opt == Opt::Version => return Ok(print(version())),
            Ok(Item::Option { def, name, value }) => {
                builder.apply(def, Given { name: &name, value: &value }).map_err(refuse)?;
            }
            Ok(Item::Operands(rest)) => operands = rest,
            Err(complaint) => return Err(refuse(format!("{complaint}\n{}", usage().trim_end()))),
        }
    }
    let operands = meaning(operands, &builder).map_err(refuse)?;
    builder.finish(operands).map_err(refuse)
}

/// A single number is a process whose namespace to serve; anything else is a command to spawn.
fn meaning(operands: Vec<OsString>, builder: &Builder) -> Result<Operands, String> {
    match &operands[..] {
        [] if builder.has_netns() => Ok(Operands::Attach(None)),
        [one] => match value::pid(one) {
            Some(Ok(pid)) => Ok(Operands::Attach(Some(Target::Pid(pid)))),
            Some(Err(advice)) => Err(format!("Invalid process id '{}': {advice}", one.to_string_lossy())),
            None => Ok(Operands::Spawn(operands)),
        },
        _ => Ok(Operands::Spawn(operands)),
    }
}

fn print(text: String) -> Command {
    Command::Print { text, stdout: true, status: 0 }
}

fn refuse(message: String) -> Exit {
    Exit { message, status: 1 }
}

fn version() -> String {
    format!("pasta {}\nThis is {}, under MIT OR Apache-2.0\n", env!("CARGO_PKG_VERSION"), super::version())
}

fn usage() -> String {
    let mut text = String::from(
        "Usage: pasta [OPTION]... [COMMAND] [ARGS]...\n       pasta [OPTION]... PID\n       \
         pasta [OPTION]... --netns [PATH|NAME]\n\nWithout PID or --netns, run the given command or a default shell in \
         a new\nnetwork and user namespace, and connect it via pasta.\n",
    );
    let shown = |d: &Def| d.face != Face::Spelt && d.opt != Opt::VmOnly;
    text.push_str(&help::groups(help::Value::Bare, shown));
    text
}
