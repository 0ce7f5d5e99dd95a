//! The `spelt` command line, made from the table for clap.

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use super::build::{Builder, Given, Operands};
use super::planned::is_planned;
use super::table::{Def, Faces, OPTIONS, Opt};
use super::types::{Command, Exit, Personality};
use super::{help, suggest, value};

pub(super) fn parse(args: Vec<OsString>) -> Result<Command, Exit> {
    let subcommand = args.first().and_then(|a| a.to_str()).filter(|a| Sub::named(a).is_some()).map(String::from);
    if args.is_empty() {
        return Err(Exit { message: SHORT_USAGE.into(), status: 1 });
    }
    let matches = match command().try_get_matches_from(std::iter::once("spelt".into()).chain(args)) {
        Ok(matches) => matches,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Command::Print { text: e.render().to_string(), stdout: true, status: 0 });
        }
        // clap's own status would be 2.
        Err(e) => {
            return Err(Exit { message: one_sentence(&e, subcommand.as_deref()), status: 1 });
        }
    };
    let built = match matches.subcommand() {
        Some(("run", m)) => run(m),
        Some(("attach", m)) => attach(m),
        Some(("vm", m)) => vm(m),
        _ => Err("give 'run', 'attach' or 'vm'".into()),
    };
    built.map_err(|sentence| Exit { message: format!("error: {sentence}"), status: 1 })
}

/// clap's message without its page of usage: what is wrong, and the tip if there is one.
fn one_sentence(error: &clap::Error, subcommand: Option<&str>) -> String {
    let rendered = error.render().to_string();
    let mut paragraphs = rendered.split("\n\n");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut sentence = words(paragraphs.next().unwrap_or_default());
    let tip = match (error.kind(), subcommand, error.get(ContextKind::InvalidArg)) {
        // clap compares by another measure, which prefers long words.
        (ErrorKind::UnknownArgument, Some(command), Some(ContextValue::String(typed))) => meant(typed, command),
        _ => {
            let tip = paragraphs.next().and_then(|p| p.trim_start().strip_prefix("tip: ")?.lines().next());
            // How to give a command of that name is no help with an option that does not exist.
            tip.filter(|t| !t.starts_with("to pass ")).map(words)
        }
    };
    if let Some(tip) = tip {
        sentence = format!("{sentence}; {tip}");
    }
    let command = subcommand.map_or_else(String::new, |word| format!(" {word}"));
    format!("{sentence}; 'spelt{command} --help' tells more")
}

/// About an option that `command` does not have.
fn meant(typed: &str, command: &str) -> Option<String> {
    let sub = Sub::named(command)?;
    let long = typed.strip_prefix("--")?;
    let elsewhere = |other: &&&Sub| OPTIONS.iter().any(|d| d.long == long && d.faces.contains(other.face));
    if let Some(other) = SUBS.iter().find(elsewhere) {
        return Some(format!("it is an option of 'spelt {}'", other.name));
    }
    let known = OPTIONS.iter().filter(|d| d.faces.contains(sub.face)).map(|d| d.long).chain(["help", "version"]);
    Some(format!("did you mean '--{}'?", suggest::nearest(long, known)?))
}

/// For the completions of shells, too.
pub fn command() -> clap::Command {
    let run = RUN.command().arg(
        Arg::new(COMMAND)
            .help("Program and its arguments [default: your shell]")
            .num_args(0..)
            .trailing_var_arg(true)
            .value_parser(ValueParser::os_string()),
    );
    let attach = ATTACH.command().arg(
        Arg::new(TARGET)
            .value_name("PID|PATH|NAME")
            .help("A process in the namespace, its file, or its name as in 'ip netns'")
            .value_parser(ValueParser::os_string())
            .required_unless_present_any(["netns", "netns-fd"]),
    );
    clap::Command::new("spelt")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .about("Full network connectivity for namespaces and virtual machines, unprivileged")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommands([run, attach, VM.command()])
        .subcommands([
            elsewhere("ctl", "Ask a running instance what it does, and change it"),
            elsewhere("list", "List the running instances of this user"),
            elsewhere("doctor", "Say what this machine allows, and how to mend what it does not"),
            elsewhere("respond", "Answer neighbours for the containers behind this host"),
            elsewhere("announce", "Tell a link's neighbours where addresses are now"),
        ])
}

/// A subcommand that has a command line of its own.
fn elsewhere(name: &'static str, about: &'static str) -> clap::Command {
    clap::Command::new(name).about(about)
}

/// A subcommand: its texts for people.
struct Sub {
    name: &'static str,
    face: Faces,
    about: &'static str,
    usage: &'static str,
    arguments: &'static [(&'static str, &'static str)],
    examples: &'static str,
}

impl Sub {
    fn named(name: &str) -> Option<&'static Sub> {
        SUBS.into_iter().find(|s| s.name == name)
    }

    fn command(&self) -> clap::Command {
        clap::Command::new(self.name)
            .display_name("spelt")
            .about(self.about)
            .override_usage(self.usage)
            .args(OPTIONS.iter().filter(|d| d.faces.contains(self.face)).map(|d| arg(d, self.face)))
            .override_help(self.help())
    }

    fn help(&self) -> String {
        let columns = |(left, right): &(&str, &str)| help::columns(left, right);
        let arguments: String = self.arguments.iter().chain(GENERAL_ARGUMENTS).map(columns).collect();
        let options = help::groups(help::Value::Pointed, |d| is_shown(d, self.face));
        format!("{}\n\nUsage: {}\n\n{arguments}{options}\n{}", self.about, self.usage, self.examples)
    }
}

/// True if the help of the subcommand has it.
pub(super) fn is_shown(def: &Def, face: Faces) -> bool {
    def.faces.contains(face) && !is_implied(def.opt, face)
}

/// What is the default, or has a shorter form, is accepted without being offered; and what can only be refused, with a
/// reason.
fn is_implied(opt: Opt, face: Faces) -> bool {
    let elsewhere = match opt {
        Opt::Foreground => face == Faces::RUN,
        Opt::Queues => face == Faces::VM,
        _ => false,
    };
    matches!(opt, Opt::ConfigNet | Opt::Netns) || elsewhere
}

fn arg(def: &'static Def, face: Faces) -> Arg {
    let arg = Arg::new(def.long).long(def.long).help(def.help).help_heading(def.group.title());
    let arg = match def.short {
        Some(letter) => arg.short(letter),
        None => arg,
    };
    let arg = arg.hide(is_implied(def.opt, face) || is_planned(def.opt));
    match def.value {
        // The last one wins, or all count: the builder decides.
        Some(name) => arg.value_name(name).action(ArgAction::Append).value_parser(ValueParser::os_string()),
        // Giving a flag twice means the same; what counts is its last place.
        None => arg.action(ArgAction::SetTrue).overrides_with(def.long),
    }
}

fn run(m: &ArgMatches) -> Result<Command, String> {
    let builder = build(m, Faces::RUN)?;
    let command = m.get_many::<OsString>(COMMAND).map(|v| v.cloned().collect()).unwrap_or_default();
    builder.finish(Operands::Spawn(command))
}

fn attach(m: &ArgMatches) -> Result<Command, String> {
    let builder = build(m, Faces::ATTACH)?;
    let target = match m.get_one::<OsString>(TARGET) {
        None => None,
        Some(text) => {
            let parsed = value::pid(text).map(|pid| pid.map(super::types::Target::Pid));
            let parsed = parsed.unwrap_or_else(|| value::namespace(text));
            Some(parsed.map_err(|advice| format!("Invalid namespace '{}': {advice}", text.to_string_lossy()))?)
        }
    };
    builder.finish(Operands::Attach(target))
}

fn vm(m: &ArgMatches) -> Result<Command, String> {
    build(m, Faces::VM)?.finish(Operands::Machine)
}

/// Options in the order given: `-4` after `-6` wins, and so on.
fn build(m: &ArgMatches, face: Faces) -> Result<Builder, String> {
    let mut given: Vec<(usize, &Def, OsString)> = Vec::new();
    for def in OPTIONS.iter().filter(|d| d.faces.contains(face)) {
        if m.value_source(def.long) != Some(ValueSource::CommandLine) {
            continue;
        }
        let indices = m.indices_of(def.long).into_iter().flatten();
        match def.value {
            Some(_) => {
                let values = m.get_many::<OsString>(def.long).into_iter().flatten();
                given.extend(indices.zip(values).map(|(i, v)| (i, def, v.clone())));
            }
            None => given.extend(indices.map(|i| (i, def, OsString::new()))),
        }
    }
    given.sort_by_key(|(index, _, _)| *index);
    let mut builder = Builder::new(Personality::Spelt, face == Faces::VM);
    for (_, def, value) in &given {
        builder.apply(def, Given { name: &def.dashed(), value })?;
    }
    Ok(builder)
}

const COMMAND: &str = "COMMAND";
const TARGET: &str = "TARGET";

static RUN: Sub = Sub {
    name: "run",
    face: Faces::RUN,
    about: "Run a command, or a shell, in a network namespace of its own",
    usage: "spelt run [OPTIONS] [--] [COMMAND [ARG]...]",
    arguments: &[("  [COMMAND [ARG]...]", "Program and its arguments [default: your shell]")],
    examples: RUN_EXAMPLES,
};

static ATTACH: Sub = Sub {
    name: "attach",
    face: Faces::ATTACH,
    about: "Give an existing network namespace connectivity, in the background",
    usage: "spelt attach [OPTIONS] <PID|PATH|NAME>",
    arguments: &[("  <PID|PATH|NAME>", "A process in the namespace, its file, or its name as in 'ip netns'")],
    examples: ATTACH_EXAMPLES,
};

static VM: Sub = Sub {
    name: "vm",
    face: Faces::VM,
    about: "Give a virtual machine connectivity through a UNIX socket",
    usage: "spelt vm [OPTIONS]",
    arguments: &[],
    examples: VM_EXAMPLES,
};

static SUBS: [&Sub; 3] = [&RUN, &ATTACH, &VM];

const GENERAL_ARGUMENTS: &[(&str, &str)] =
    &[("  -h, --help", "Show this help and exit"), ("  -V, --version", "Show the version and exit")];

const SHORT_USAGE: &str = "\
Usage: spelt run [OPTIONS] [--] [COMMAND [ARG]...]
       spelt attach [OPTIONS] PID|PATH|NAME
       spelt vm [OPTIONS]
       spelt list | ctl | doctor | respond | announce ...

Try 'spelt --help' for more.";

const EXAMPLES: &str = "\
Examples:
  spelt run -- curl https://example.org/
      Run one command in new namespaces. It has the host's addresses and
      reaches what the host reaches; spelt ends with it and passes on its exit
      status. Without a command: your shell.
  spelt attach -t 8080:80 1234
      Connect the network namespace of process 1234, and lead port 8080 of the
      host to its port 80. Returns when all is ready; the rest runs in the
      background, and ends when the namespace goes.
  spelt vm --socket /tmp/vm.socket -t 2222:22
      Wait for a virtual machine, and lead port 2222 of the host to its port 22.
      Says how to start QEMU, and returns; the rest runs in the background.

'spelt run --help', 'spelt attach --help' and 'spelt vm --help' list the
options.";

const RUN_EXAMPLES: &str = "\
Examples:
  spelt run
  spelt run -t 8080:80 -- python3 -m http.server 80
  spelt run -4 --no-map-gw -- ./untrusted-program";

const ATTACH_EXAMPLES: &str = "\
Examples:
  spelt attach 1234
  spelt attach /run/user/1000/netns/blue
  spelt attach --pid /run/blue.pid -t 127.0.0.1/8080:80 blue";

const VM_EXAMPLES: &str = "\
Examples:
  spelt vm --socket /tmp/vm.socket
  qemu-system-x86_64 ... -device virtio-net-pci,netdev=net \\
      -netdev stream,id=net,server=off,addr.type=unix,addr.path=/tmp/vm.socket
  spelt vm --one-off --socket /tmp/vm.socket -t 2222:22 --hostname guest

A service manager's listening socket (LISTEN_FDS; called 'vm', or nothing)
takes the place of --socket, and one called 'control' that of --control.";
