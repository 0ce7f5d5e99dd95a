//! The `spelt` command line, made from the table for clap.

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};

use super::build::{Builder, Given, Operands};
use super::planned::is_planned;
use super::table::{Def, Face, OPTIONS, Opt};
use super::types::{Command, Exit, Personality};
use super::{help, suggest, value};

pub(super) fn parse(args: Vec<OsString>) -> Result<Command, Exit> {
    let subcommand = args.first().and_then(|a| a.to_str()).filter(|a| ["run", "attach"].contains(a)).map(String::from);
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
        _ => Err("give 'run' or 'attach'".into()),
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
    let (face, other, others) = match command {
        "run" => (Face::Spawn, "attach", Face::Attach),
        _ => (Face::Attach, "run", Face::Spawn),
    };
    let long = typed.strip_prefix("--")?;
    if OPTIONS.iter().any(|d| d.long == long && offered(d, others)) {
        return Some(format!("it is an option of 'spelt {other}'"));
    }
    let known = OPTIONS.iter().filter(|d| offered(d, face)).map(|d| d.long).chain(["help", "version"]);
    Some(format!("did you mean '--{}'?", suggest::nearest(long, known)?))
}

/// Shared with the generation of man pages and shell completions.
pub fn command() -> clap::Command {
    let options = |face| OPTIONS.iter().filter(move |d| offered(d, face)).map(move |d| arg(d, face));
    let run = clap::Command::new("run")
        .display_name("spelt")
        .about("Run a command, or a shell, in a network namespace of its own")
        .override_usage("spelt run [OPTIONS] [--] [COMMAND [ARG]...]")
        .args(options(Face::Spawn))
        .arg(
            Arg::new(COMMAND)
                .help("Program and its arguments [default: your shell]")
                .num_args(0..)
                .trailing_var_arg(true)
                .value_parser(ValueParser::os_string()),
        )
        .override_help(help_of(Face::Spawn));
    let attach = clap::Command::new("attach")
        .display_name("spelt")
        .about("Give an existing network namespace connectivity, in the background")
        .override_usage("spelt attach [OPTIONS] <PID|PATH|NAME>")
        .args(options(Face::Attach))
        .arg(
            Arg::new(TARGET)
                .value_name("PID|PATH|NAME")
                .help("A process in the namespace, its file, or its name as in 'ip netns'")
                .value_parser(ValueParser::os_string())
                .required_unless_present("netns"),
        )
        .override_help(help_of(Face::Attach));
    clap::Command::new("spelt")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .about("Full network connectivity for network namespaces, without any privilege")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(run)
        .subcommand(attach)
}

fn help_of(face: Face) -> String {
    let (head, arguments, examples) = match face {
        Face::Attach => (ATTACH_HEAD, ATTACH_ARGUMENTS, ATTACH_EXAMPLES),
        _ => (RUN_HEAD, RUN_ARGUMENTS, RUN_EXAMPLES),
    };
    let arguments: String = arguments.iter().map(|(left, right)| help::columns(left, right)).collect();
    let options = help::groups(help::Value::Pointed, |d| offered(d, face) && !is_implied(d.opt, face));
    format!("{head}\n{arguments}{options}\n{examples}")
}

/// What is the default, or has a shorter form, is accepted without being offered.
fn is_implied(opt: Opt, face: Face) -> bool {
    matches!(opt, Opt::ConfigNet | Opt::Netns) || opt == Opt::Foreground && face == Face::Spawn
}

fn offered(def: &Def, face: Face) -> bool {
    matches!(def.face, Face::All | Face::Spelt) || def.face == face
}

fn arg(def: &'static Def, face: Face) -> Arg {
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
    let builder = build(m, Face::Spawn)?;
    let command = m.get_many::<OsString>(COMMAND).map(|v| v.cloned().collect()).unwrap_or_default();
    builder.finish(Operands::Spawn(command))
}

fn attach(m: &ArgMatches) -> Result<Command, String> {
    let builder = build(m, Face::Attach)?;
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

/// Options in the order given: `-4` after `-6` wins, and so on.
fn build(m: &ArgMatches, face: Face) -> Result<Builder, String> {
    let mut given: Vec<(usize, &Def, OsString)> = Vec::new();
    for def in OPTIONS.iter().filter(|d| offered(d, face)) {
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
    let mut builder = Builder::new(Personality::Spelt);
    for (_, def, value) in &given {
        builder.apply(def, Given { name: &def.dashed(), value })?;
    }
    Ok(builder)
}

const COMMAND: &str = "COMMAND";
const TARGET: &str = "TARGET";

const RUN_HEAD: &str = "\
Run a command, or a shell, in a network namespace of its own

Usage: spelt run [OPTIONS] [--] [COMMAND [ARG]...]
";

const RUN_ARGUMENTS: &[(&str, &str)] = &[
    ("  [COMMAND [ARG]...]", "Program and its arguments [default: your shell]"),
    ("  -h, --help", "Show this help and exit"),
    ("  -V, --version", "Show the version and exit"),
];

const ATTACH_HEAD: &str = "\
Give an existing network namespace connectivity, in the background

Usage: spelt attach [OPTIONS] <PID|PATH|NAME>
";

const ATTACH_ARGUMENTS: &[(&str, &str)] = &[
    ("  <PID|PATH|NAME>", "A process in the namespace, its file, or its name as in 'ip netns'"),
    ("  -h, --help", "Show this help and exit"),
    ("  -V, --version", "Show the version and exit"),
];

const SHORT_USAGE: &str = "\
Usage: spelt run [OPTIONS] [--] [COMMAND [ARG]...]
       spelt attach [OPTIONS] PID|PATH|NAME

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

'spelt run --help' and 'spelt attach --help' list the options.";

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
