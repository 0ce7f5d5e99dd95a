//! The command lines of pasta and passt: what callers of those programs give and expect.

use std::ffi::{OsStr, OsString};

use super::build::{Builder, Given, Operands};
use super::getopt::{Getopt, Item, Order};
use super::table::{Def, Faces, OPTIONS, Opt};
use super::types::{Command, Exit, Personality, Target};
use super::{help, value};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Serves a namespace.
    Pasta,
    /// Serves a virtual machine.
    Passt,
}

impl Peer {
    pub fn parse(self, argv0: &OsStr, args: Vec<OsString>) -> Result<Command, Exit> {
        let mut builder = Builder::new(self.personality(), self == Peer::Passt);
        let mut operands = Vec::new();
        // Those of the other one are known, so that they can be refused by name.
        let known = OPTIONS.iter().filter(|d| d.faces.intersects(Faces::PEERS));
        for item in Getopt::new(argv0, args, known, self.order()) {
            match item {
                Ok(Item::Option { def, .. }) if !def.faces.contains(self.face()) => {
                    let other = if self == Peer::Pasta { "passt" } else { "pasta" };
                    return Err(refuse(format!("--{} is for {other} mode only", def.long)));
                }
                Ok(Item::Option { def, .. }) if def.opt == Opt::Help => return Ok(print(self.usage())),
                Ok(Item::Option { def, .. }) if def.opt == Opt::Version => return Ok(print(self.version())),
                Ok(Item::Option { def, .. }) if def.opt == Opt::PrintCapabilities => {
                    return Ok(print(CAPABILITIES.into()));
                }
                Ok(Item::Option { def, name, value }) => {
                    builder.apply(def, Given { name: &name, value: &value }).map_err(refuse)?;
                }
                Ok(Item::Operands(rest)) => operands = rest,
                Err(complaint) => return Err(refuse(format!("{complaint}\n{}", self.usage().trim_end()))),
            }
        }
        let operands = self.meaning(operands, &builder).map_err(refuse)?;
        builder.finish(operands).map_err(refuse)
    }

    /// pasta: a single number is a process whose namespace to serve; anything else is a command to spawn.
    fn meaning(self, operands: Vec<OsString>, builder: &Builder) -> Result<Operands, String> {
        match (self, &operands[..]) {
            (Peer::Passt, []) => Ok(Operands::Machine),
            (Peer::Passt, [first, ..]) => {
                Err(format!("Unexpected argument '{}': passt takes options only", first.to_string_lossy()))
            }
            (Peer::Pasta, []) if builder.has_netns() => Ok(Operands::Attach(None)),
            (Peer::Pasta, [one]) => match value::pid(one) {
                Some(Ok(pid)) => Ok(Operands::Attach(Some(Target::Pid(pid)))),
                Some(Err(advice)) => Err(format!("Invalid process id '{}': {advice}", one.to_string_lossy())),
                None => Ok(Operands::Spawn(operands)),
            },
            _ => Ok(Operands::Spawn(operands)),
        }
    }

    fn personality(self) -> Personality {
        match self {
            Peer::Pasta => Personality::Pasta,
            Peer::Passt => Personality::Passt,
        }
    }

    fn face(self) -> Faces {
        match self {
            Peer::Pasta => Faces::PASTA,
            Peer::Passt => Faces::PASST,
        }
    }

    fn order(self) -> Order {
        match self {
            Peer::Pasta => Order::OptionsFirst,
            Peer::Passt => Order::Mixed,
        }
    }

    fn version(self) -> String {
        let (name, own) = (self.personality().name(), super::version());
        format!("{name} {}\nThis is {own}, under MIT OR Apache-2.0\n", env!("CARGO_PKG_VERSION"))
    }

    fn usage(self) -> String {
        let mut text = String::from(match self {
            Peer::Pasta => PASTA_USAGE,
            Peer::Passt => PASST_USAGE,
        });
        text.push_str(&help::groups(help::Value::Bare, |d: &Def| d.faces.contains(self.face())));
        text
    }
}

fn print(text: String) -> Command {
    Command::Print { text, stdout: true, status: 0 }
}

fn refuse(message: String) -> Exit {
    Exit { message, status: 1 }
}

/// Of a vhost-user back end, as hypervisors read it.
const CAPABILITIES: &str = "{\n  \"type\": \"net\"\n}\n";

const PASTA_USAGE: &str = "\
Usage: pasta [OPTION]... [COMMAND] [ARGS]...
       pasta [OPTION]... PID
       pasta [OPTION]... --netns [PATH|NAME]

Without PID or --netns, run the given command or a default shell in a new
network and user namespace, and connect it via pasta.
";

const PASST_USAGE: &str = "\
Usage: passt [OPTION]...

Connect a virtual machine to the network of this host, through a UNIX socket.
";
