//! The command line of pesto, which changes what a running instance forwards: options take effect in their order.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::described::Described;
use super::getopt::{Def, Getopt, Item, Order, def};
use super::types::{Command, Exit};
use super::value;
use crate::fwd::ports::Spec;
use crate::fwd::{Proto, Side};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The instance's socket (`--conf-path`).
    pub path: PathBuf,
    /// In order; none: the tables are only to be shown.
    pub steps: Vec<Step>,
    /// Show the tables before and after.
    pub show: bool,
    /// Tell what is done.
    pub debug: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// What follows is added to what there is.
    Add,
    /// What follows is deleted.
    Delete,
    /// The table of this name is emptied.
    Clear(String),
    Ports(Given),
}

/// Ports, by one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub proto: Proto,
    /// Where they are listened to.
    pub on: Side,
    /// As the user wrote it.
    pub option: String,
    pub text: String,
    /// `None`: none.
    pub spec: Option<Spec>,
}

pub(super) fn parse(argv0: &OsStr, args: Vec<OsString>) -> Result<Command, Exit> {
    let refuse = |sentence: String| Exit { message: format!("pesto: {sentence}"), status: 1 };
    let mut wanted = Wanted { path: PathBuf::new(), steps: Vec::new(), show: false, debug: false };
    let mut operands = Vec::new();
    for item in Getopt::new(argv0, args, OPTIONS.iter(), Order::Mixed) {
        match item {
            Ok(Item::Option { def, .. }) if def.opt == Opt::Help => return Ok(print(usage())),
            Ok(Item::Option { def, .. }) if def.opt == Opt::Version => return Ok(print(version())),
            Ok(Item::Option { def, name, value }) => apply(&mut wanted, def.opt, name, &value).map_err(refuse)?,
            Ok(Item::Operands(rest)) => operands = rest,
            Err(complaint) => {
                let message = format!("{complaint}\n{}", usage().trim_end());
                return Err(Exit { message, status: 1 });
            }
        }
    }
    match &operands[..] {
        [path] => wanted.path = value::path(path).map_err(|a| refuse(format!("Invalid socket path '': {a}")))?,
        [] => return Err(refuse(format!("Give the path of an instance's socket; {HINT}"))),
        [_, extra, ..] => {
            let extra = extra.to_string_lossy();
            return Err(refuse(format!("Unexpected argument '{extra}': give one path, after all options; {HINT}")));
        }
    }
    Ok(Command::Change(Box::new(wanted)))
}

fn apply(wanted: &mut Wanted, opt: Opt, option: String, value: &OsStr) -> Result<(), String> {
    let shown = value.to_string_lossy();
    let step = match opt {
        Opt::Add => Step::Add,
        Opt::Delete => Step::Delete,
        Opt::Clear => Step::Clear(shown.into_owned()),
        Opt::Ports(proto, on) => {
            let invalid =
                |advice: &str| format!("Invalid port specification '{shown}' for option '{option}': {advice}");
            let text = value.to_str().ok_or_else(|| invalid("it is not UTF-8 text"))?;
            let spec = match (text, on) {
                ("none", _) => Ok(None),
                (_, Side::Host) => Spec::parse(proto, text).map(Some),
                (_, Side::Guest) => Spec::parse_outbound(proto, text).map(Some),
            };
            let spec = spec.map_err(|advice| invalid(&advice))?;
            let same_kind = |s: &Step| matches!(s, Step::Ports(g) if (g.proto, g.on) == (proto, on));
            if spec.is_none() && wanted.steps.iter().any(same_kind) {
                return Err(invalid("'none' stands alone, as the first specification of its kind"));
            }
            Step::Ports(Given { proto, on, text: text.into(), option, spec })
        }
        Opt::Show => {
            wanted.show = true;
            return Ok(());
        }
        Opt::Debug => {
            wanted.debug = true;
            return Ok(());
        }
        Opt::Help | Opt::Version => return Ok(()),
    };
    wanted.steps.push(step);
    Ok(())
}

fn print(text: String) -> Command {
    Command::Print { text, stdout: true, status: 0 }
}

fn version() -> String {
    format!("pesto {}\nThis is {}, under MIT OR Apache-2.0\n", env!("CARGO_PKG_VERSION"), super::version())
}

/// For the manual page.
pub(super) fn options() -> impl Iterator<Item = Described> {
    OPTIONS.iter().map(Def::described)
}

fn usage() -> String {
    let mut text = String::from(USAGE);
    for def in OPTIONS {
        let short = def.short.map_or_else(|| "    ".into(), |c| format!("-{c}, "));
        let value = def.value.map_or_else(String::new, |v| format!(" {v}"));
        text.push_str(&format!("  {:<24} {}\n", format!("{short}--{}{value}", def.long), def.help));
    }
    text + SPECS
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opt {
    Add,
    Delete,
    Clear,
    Ports(Proto, Side),
    Show,
    Debug,
    Help,
    Version,
}

static OPTIONS: &[Def<Opt>] = &[
    def(Opt::Add, Some('A'), "add", None, "Add the ports of the options that follow to those there are"),
    def(Opt::Delete, Some('D'), "delete", None, "Delete the ports of the options that follow, as they were added"),
    def(Opt::Clear, Some('C'), "clear", Some("TABLE"), "Delete all of a table: HOST or SPLICE"),
    def(Opt::Ports(Proto::Tcp, Side::Host), Some('t'), "tcp-ports", Some("SPEC"), "TCP ports of the host to the guest"),
    def(Opt::Ports(Proto::Udp, Side::Host), Some('u'), "udp-ports", Some("SPEC"), "UDP ports of the host to the guest"),
    def(Opt::Ports(Proto::Tcp, Side::Guest), Some('T'), "tcp-ns", Some("SPEC"), "TCP ports of the guest to the host"),
    def(Opt::Ports(Proto::Udp, Side::Guest), Some('U'), "udp-ns", Some("SPEC"), "UDP ports of the guest to the host"),
    def(Opt::Show, Some('s'), "show", None, "Show what is forwarded, before and after"),
    def(Opt::Debug, Some('d'), "debug", None, "Tell what is done"),
    def(Opt::Help, Some('h'), "help", None, "Show this help and exit"),
    def(Opt::Version, None, "version", None, "Show the version and exit"),
];

const USAGE: &str = "\
Usage: pesto [OPTION]... PATH

Show or change which ports a running pasta or passt forwards; PATH is its socket (option '-c').
Without --add, --delete and --clear, the ports given replace all of their table: -t and -u
are of HOST, -T and -U of SPLICE. All is done, or nothing, and then the status is not 0.

";
const SPECS: &str = "
A SPEC is as for pasta and passt: '8080', '8080:80', '8000-8010:80-90', '127.0.0.1/22', '%eth0/53',
'8000-9000,~8500', 'all', 'auto', 'none'.
";
const HINT: &str = "'pesto --help' tells more";
