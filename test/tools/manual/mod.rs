//! Manual pages: what is written by hand in `source` of the directory, and in it what the program's own tables say.
//!
//! In a source, `@version` stands for the program and its version, and a line `.\"@ WHAT [NAME...]` for a list:
//!
//! - `options NAME`: the options of a command line; with more than one name, of all of them together, where an option that not
//!   all have says who does
//! - `commands ctl`: its subcommands and their options
//! - `reasons`, `respond-reasons`, `events`: what is counted
//!
//! Other lines stay as they are.

mod roff;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Arg, ArgAction, CommandFactory, Parser};
use serde::Serialize;
use spelt::base::DropReason;
use spelt::config::{Described, described};
use spelt::ctl::Ctl;
use spelt::respond::reason::{Event, Reason};
use spelt::respond::{Announce, Respond};

#[derive(Parser)]
pub struct Options {
    /// Where the pages are, and below it in `source` what they are made of
    directory: PathBuf,
    /// Write nothing; fail if a page is not what would be written
    #[arg(long)]
    check: bool,
}

#[derive(Serialize)]
struct Found {
    pages: usize,
}

pub fn run(options: &Options) -> Result<()> {
    let sources = options.directory.join("source");
    let listed = std::fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))?;
    let mut names: Vec<_> = listed.map(|entry| entry.map(|e| e.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    let mut stale = Vec::new();
    for name in &names {
        let page = page(&sources.join(name))?;
        let path = options.directory.join(name);
        if !options.check {
            std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        } else if std::fs::read_to_string(&path).unwrap_or_default() != page {
            stale.push(path.display().to_string());
        }
    }
    ensure!(stale.is_empty(), "not as the program is now: {}; `lab manual doc/man` writes them", stale.join(", "));
    println!("{}", serde_json::to_string(&Found { pages: names.len() })?);
    Ok(())
}

fn page(source: &Path) -> Result<String> {
    let text = std::fs::read_to_string(source).with_context(|| format!("cannot read {}", source.display()))?;
    let mut page = format!(
        ".\\\" Made by `lab manual` from source/{} and the program's tables: change those.\n",
        source.file_name().unwrap_or_default().to_string_lossy()
    );
    for line in text.lines() {
        match line.strip_prefix(".\\\"@ ") {
            Some(words) => page.push_str(&list(words).with_context(|| format!("{}: {line}", source.display()))?),
            None => page.push_str(&format!("{}\n", line.replace("@version", VERSION))),
        }
    }
    Ok(page)
}

fn list(words: &str) -> Result<String> {
    let words: Vec<_> = words.split(' ').collect();
    Ok(match words[..] {
        ["options", "ctl"] => arguments(&Ctl::command(), true),
        ["options", "respond"] => arguments(&Respond::command(), true),
        ["options", "announce"] => arguments(&Announce::command(), true),
        ["options", name] => table(&described(name), &|_| String::new()),
        ["options", ref names @ ..] => together(names),
        ["commands", "ctl"] => commands(&Ctl::command(), ""),
        ["reasons"] => meanings(DropReason::ALL.iter().map(|r| (r.name(), r.meaning()))),
        ["respond-reasons"] => meanings(Reason::ALL.iter().map(|r| (r.name(), r.meaning()))),
        ["events"] => meanings(Event::ALL.iter().map(|e| (e.name(), e.meaning()))),
        _ => bail!("there is no such list"),
    })
}

/// Subcommands of `spelt`, whose options are of one table.
fn together(names: &[&str]) -> String {
    let each: Vec<(&str, Vec<Described>)> = names.iter().map(|name| (*name, described(name))).collect();
    let who = |option: &Described| {
        let has: Vec<&str> = each.iter().filter(|(_, all)| all.contains(option)).map(|(name, _)| *name).collect();
        if has.len() == each.len() { String::new() } else { format!(" (only {})", has.join(" and ")) }
    };
    table(&described("spelt"), &who)
}

fn table(options: &[Described], remark: &dyn Fn(&Described) -> String) -> String {
    let mut text = String::new();
    let mut group = "";
    for option in options {
        if option.group != group {
            group = option.group;
            text.push_str(&roff::subsection(group));
        }
        let (long, short) = (Some(option.long), option.short);
        // One of the programs begins small.
        let help = format!("{}{}{}", option.help[..1].to_uppercase(), &option.help[1..], remark(option));
        text.push_str(&roff::entry(&roff::option(short, long, option.value), &help));
    }
    text
}

/// Of a command of clap's.
fn arguments(command: &clap::Command, general: bool) -> String {
    let mut text = String::new();
    let mut group = None;
    // In the order of their headings, as clap shows them.
    let mut headings: Vec<Option<&str>> = Vec::new();
    command.get_arguments().for_each(|arg| {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    });
    for heading in headings {
        let shown = |arg: &&Arg| arg.get_help_heading() == heading && arg.get_help().is_some() && !arg.is_hide_set();
        for arg in command.get_arguments().filter(shown) {
            if heading != group {
                group = heading;
                text.push_str(&roff::subsection(heading.unwrap_or_default()));
            }
            text.push_str(&argument(arg));
        }
    }
    if general {
        text.push_str(&roff::entry(&roff::option(Some('h'), Some("help"), None), "Show the options and exit"));
        text.push_str(&roff::entry(&roff::option(Some('V'), Some("version"), None), "Show the version and exit"));
    }
    text
}

fn argument(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let default = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let takes_value = arg.get_action().takes_values();
    let help = if default.is_empty() || !takes_value { help } else { format!("{help} [default: {default}]") };
    let value = takes_value.then(|| value(arg));
    if arg.is_positional() {
        return roff::entry(&roff::value(&value.unwrap_or_default()), &help);
    }
    roff::entry(&roff::option(arg.get_short(), arg.get_long(), value.as_deref()), &help)
}

/// The names of the values of an argument.
fn value(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default().iter().map(|n| n.as_str()).collect::<Vec<_>>().join(" ");
    let several = arg.is_positional() && matches!(arg.get_action(), ArgAction::Append);
    let names = if several { format!("{names} ...") } else { names };
    let optional = match arg.is_positional() {
        true => !arg.is_required_set(),
        false => arg.get_num_args().is_some_and(|range| range.min_values() == 0),
    };
    if optional { format!("[{names}]") } else { names }
}

/// Those that do something themselves, with the words that lead to them.
fn commands(command: &clap::Command, before: &str) -> String {
    let mut text = String::new();
    for sub in command.get_subcommands() {
        let name = format!("{before}{}", sub.get_name());
        if sub.has_subcommands() {
            text.push_str(&commands(sub, &format!("{name} ")));
            continue;
        }
        let values: String = sub.get_positionals().map(|arg| format!(" {}", roff::value(&value(arg)))).collect();
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&roff::entry(&format!("{}{values}", roff::bold(&name)), &about));
        let inner = arguments(sub, false);
        if !inner.is_empty() {
            text.push_str(&format!(".RS\n{inner}.RE\n"));
        }
    }
    text
}

fn meanings<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    all.map(|(name, meaning)| roff::entry(&roff::bold(name), meaning)).collect()
}

const VERSION: &str = concat!("spelt ", env!("CARGO_PKG_VERSION"));
