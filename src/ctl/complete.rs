//! What may stand next on a command line, for shells: `spelt complete -- WORD...`, the last of which is being typed. A line a
//! candidate, with a tab and what it means; `:files` and `:commands` are for the shell to find. Made from the command lines
//! themselves, so it knows each option that there is. `contrib/completions` has what shells want to call it by.

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::args::{Ctl, List};
use super::instances;
use crate::sys::terminal::harmless;

/// Where namespaces have names: ip-netns(8).
const NETNS: &str = "/run/netns";
const INTERFACES: &str = "/sys/class/net";

/// `args`: the words, perhaps behind `--`.
pub fn lines(args: &[OsString]) -> String {
    let args = args.strip_prefix(&[OsString::from("--")]).unwrap_or(args);
    let words: Vec<String> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (current, before) = words.split_last().map_or(("", &[][..]), |(last, rest)| (last.as_str(), rest));
    candidates(before, current).concat()
}

fn root() -> Command {
    let doctor =
        Command::new("doctor").arg(Arg::new("json").long("json").help("Print in JSON").action(ArgAction::SetTrue));
    // Those that have command lines of their own, instead of their names alone.
    let others = [Ctl::command().name("ctl"), List::command().name("list"), doctor];
    let mut root = crate::config::command();
    for other in others.into_iter().chain(crate::respond::commands()) {
        let name = other.get_name().to_owned();
        root = root.mut_subcommand(name, |known| match known.get_about() {
            Some(about) => other.about(about.clone()),
            None => other,
        });
    }
    root.build();
    root
}

fn candidates(before: &[String], current: &str) -> Vec<String> {
    let root = root();
    let mut command = &root;
    let mut pending: Option<&Arg> = None;
    for (at, word) in before.iter().enumerate() {
        let is_run = command.get_name() == "run";
        // bash makes three words of --name=value.
        if word == "=" || pending.take_if(|_| !is_split(before.get(at + 1))).is_some() {
            continue;
        }
        if word == "--" {
            return command_line(is_run && at + 1 == before.len());
        }
        if word.starts_with('-') {
            pending = option(command, word).filter(|arg| takes_value(arg) && !word.contains('='));
        } else if let Some(next) = command.find_subcommand(word) {
            command = next;
        } else if is_run {
            return command_line(false);
        }
    }
    if let Some(arg) = pending {
        return values(arg, current.strip_prefix('=').unwrap_or(current), "");
    }
    if let Some((name, value)) = current.split_once('=').filter(|(name, _)| name.starts_with("--")) {
        return option(command, name).map(|arg| values(arg, value, &format!("{name}="))).unwrap_or_default();
    }
    if current.starts_with('-') {
        return options(command, current);
    }
    let subcommands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let named = subcommands.map(|sub| (sub.get_name().to_owned(), about(sub.get_about())));
    let mut all = matching(named, current, "");
    for arg in command.get_positionals() {
        all.extend(if arg.get_id() == "COMMAND" { command_line(true) } else { values(arg, current, "") });
    }
    all
}

fn is_split(next: Option<&String>) -> bool {
    next.is_some_and(|next| next == "=")
}

fn command_line(first: bool) -> Vec<String> {
    vec![if first { ":commands\n" } else { ":files\n" }.to_owned()]
}

/// `--name`, `--name=...`, `-n`, or several letters, the last of which counts.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    match word.strip_prefix("--") {
        Some(long) => {
            let long = long.split('=').next();
            command.get_arguments().find(|arg| arg.get_long() == long)
        }
        None => {
            // What stands behind a letter with a value is the value.
            let find = |letter| command.get_arguments().find(|arg| arg.get_short() == Some(letter));
            let letters: Vec<&Arg> = word.chars().skip(1).map_while(find).collect();
            let valued = letters.iter().position(|arg| takes_value(arg));
            let is_last = valued.is_none_or(|at| at + 2 == word.chars().count());
            letters.last().copied().filter(|_| is_last)
        }
    }
}

/// And cannot do without it.
fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && arg.get_num_args().is_none_or(|range| range.min_values() > 0)
}

fn options(command: &Command, current: &str) -> Vec<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let named = shown.filter_map(|arg| Some((format!("--{}", arg.get_long()?), about(arg.get_help()))));
    matching(named, current, "")
}

/// By what the value is called: words in small letters are meant literally.
fn values(arg: &Arg, current: &str, before: &str) -> Vec<String> {
    let possible = arg.get_possible_values();
    if !possible.is_empty() {
        let named = possible.iter().map(|value| (value.get_name().to_owned(), about(value.get_help())));
        return matching(named, current, before);
    }
    let names = arg.get_value_names().unwrap_or_default();
    let kinds: Vec<&str> = names.iter().flat_map(|name| name.split('|')).collect();
    let literal = |kind: &&&str| kind.chars().all(|c| c.is_ascii_lowercase());
    let mut all: Vec<(String, String)> =
        kinds.iter().filter(literal).map(|kind| ((*kind).to_owned(), String::new())).collect();
    match arg.get_id().as_str() {
        "instance" => all.extend(running()),
        "interface" | "outbound-if4" | "outbound-if6" | "via" => all.extend(entries(INTERFACES)),
        "netns" | "TARGET" => all.extend(entries(NETNS)),
        _ => {}
    }
    let mut found = matching(all.into_iter(), current, before);
    if kinds.iter().any(|kind| matches!(*kind, "PATH" | "FILE")) {
        found.push(":files\n".into());
    }
    found
}

fn running() -> Vec<(String, String)> {
    let all = instances::all().unwrap_or_default();
    all.into_iter().map(|i| (i.info.pid.to_string(), format!("{} {}", i.info.mode, i.info.target))).collect()
}

fn entries(dir: &str) -> Vec<(String, String)> {
    let all = std::fs::read_dir(Path::new(dir)).into_iter().flatten().flatten();
    let mut names: Vec<String> = all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names.into_iter().map(|name| (name, String::new())).collect()
}

fn matching(all: impl Iterator<Item = (String, String)>, current: &str, before: &str) -> Vec<String> {
    all.filter(|(name, _)| name.starts_with(current))
        .map(|(name, about)| format!("{before}{}\t{}\n", harmless(&name), harmless(&about)))
        .collect()
}

/// The first line of a help text.
fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(|text| text.to_string().lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names only.
    fn next(line: &str) -> Vec<String> {
        let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
        lines(&words).lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn subcommands_and_options_come_from_the_command_lines() {
        for name in ["run", "attach", "vm", "ctl", "list", "doctor", "respond", "announce"] {
            assert!(next("").contains(&name.to_string()), "{name}");
        }
        assert_eq!(next("ctl f"), ["flows", "forward"]);
        assert_eq!(next("ctl forward "), ["list", "add", "del"]);
        assert_eq!(next("run --log-f"), ["--log-file", "--log-fd", "--log-format"]);
        assert_eq!(next("ctl flows --w"), ["--watch"]);
        assert!(next("ctl flows --inst").contains(&"--instance".to_string()));
        assert!(!next("vm --q").contains(&"--queues".to_string()), "it is for namespaces");
    }

    #[test]
    fn those_of_neighbour_discovery_are_known_too() {
        assert_eq!(next("respond --docker"), ["--docker-network"]);
        assert_eq!(next("respond --announce-"), ["--announce-to-router", "--announce-interval"]);
        assert_eq!(next("respond -i lo --via l"), ["lo"]);
        assert_eq!(next("respond -c "), [":files"]);
        assert_eq!(next("respond --control "), ["none", ":files"]);
        assert_eq!(next("announce --re"), ["--reply"]);
        assert_eq!(next("announce -i l"), ["lo"]);
    }

    #[test]
    fn values_are_known_by_their_names() {
        assert_eq!(next("run --log-format "), ["text", "json"]);
        assert_eq!(next("run --log-format=j"), ["--log-format=json"]);
        // As bash splits it.
        assert_eq!(next("run --log-format = j"), ["json"]);
        assert_eq!(next("run --log-format ="), ["text", "json"]);
        assert_eq!(next("run -c "), ["none", ":files"]);
        assert_eq!(next("ctl flows --sort i"), ["idle"]);
        assert_eq!(next("ctl flows --watch --sort i"), ["idle"]);
        assert_eq!(next("ctl log w"), ["warn"]);
        assert_eq!(next("run -i l"), ["lo"]);
        assert_eq!(next("run -fqi l"), ["lo"]);
        assert_eq!(next("run -il --l"), next("run --l"));
    }

    #[test]
    fn a_command_is_the_shells_to_complete() {
        assert!(next("run ").contains(&":commands".to_string()));
        assert_eq!(next("run -q -- "), [":commands"]);
        for line in ["run -q -- ls --", "run ls -", "run ls "] {
            assert_eq!(next(line), [":files"], "{line}");
        }
        assert_eq!(next("no such thing"), next("thing"));
    }
}
