//! `spelt ctl` and `spelt list`: what a person, or a script, asks a running instance. Talks to the control socket, in the
//! words of [`crate::control::protocol`]; prints tables for people, JSON for programs.
//!
//! Whoever serves a guest may have been taken over by it. So nothing that an instance says reaches the terminal as it is: texts
//! pass [`harmless`] and its like, in tables (`Table::row`), in JSON (`json_line`) and wherever else they are put together.
//!
//! System calls: openat, getdents64 (instances), socket, connect, sendto, recvfrom; ioctl (width of the terminal); unlink
//! (sockets of instances that have ended); pipe2, fcntl, sendmsg, signalfd4, poll, read, write (captures).

mod args;
mod captures;
mod client;
mod complete;
mod flows;
mod forwards;
mod instances;
mod screen;
mod table;

use std::ffi::OsString;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::config::usage;
use crate::control::place;
use crate::control::protocol::{Drops, Info, Stats};
use crate::sys::terminal::{harmless, harmless_json, harmless_lines};
pub use args::{Ctl, List};
use args::{ForwardCommand, What};
use client::Client;
use table::Table;

/// Runs `spelt ctl`, `spelt list` or `spelt complete` with these arguments, the first of which is its name, and returns the exit status: 0, or
/// 1 if it was refused or could not be asked, or 2 if the command line is wrong.
pub fn main(args: Vec<OsString>) -> u8 {
    if args.first().is_some_and(|name| name == "complete") {
        // A shell that has given up is nobody to tell.
        let _ = print(&complete::lines(&args[1..]));
        return 0;
    }
    let list = args.first().is_some_and(|name| name == "list");
    let done = if list { usage::parse::<List>("list", args).map(|list| self::list(&list)) } else { ctl(args) };
    match done {
        Ok(Ok(())) => 0,
        Ok(Err(e)) if is_broken_pipe(&e) => 0,
        Ok(Err(e)) => {
            let _ = writeln!(io::stderr(), "spelt: {}", complaint(&e));
            1
        }
        Err(usage) => usage.print(),
    }
}

fn ctl(args: Vec<OsString>) -> Result<anyhow::Result<()>, usage::Usage> {
    usage::parse::<Ctl>("ctl", args).map(|ctl| run(&ctl))
}

/// What it quotes of an instance's is on a line already; other libraries quote, too.
fn complaint(e: &anyhow::Error) -> String {
    harmless_lines(&format!("{e:#}"))
}

const NO_PLACE: &str = "spelt: XDG_RUNTIME_DIR is not set, so that no instance can be found. Those that were started without it \
    are asked by the path of their option '--control': spelt ctl -i PATH";

/// Who reads us has seen enough.
fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn list(list: &List) -> anyhow::Result<()> {
    let all = instances::all()?;
    if place::default_dir().is_none() {
        let _ = writeln!(io::stderr(), "{NO_PLACE}");
    }
    if list.json {
        let all: Vec<Value> =
            all.iter().map(|i| json!({ "socket": i.path.display().to_string(), "info": i.info })).collect();
        return print(&json_line(&Value::from(all)));
    }
    let mut table = Table::new(&["PID", "MODE", "UPTIME", "PROGRAM", "TARGET"]);
    table.right(&[0, 2]);
    for instance in &all {
        let Info { pid, mode, uptime_seconds, program, target, .. } = &instance.info;
        table.row([pid.to_string(), mode.clone(), table::duration(*uptime_seconds), program.clone(), target.clone()]);
    }
    print(&table.render(table::width()))
}

fn run(ctl: &Ctl) -> anyhow::Result<()> {
    let mut client = Client::connect(&instances::find(ctl.instance.as_deref())?)?;
    match &ctl.what {
        What::Info => show(&mut client, ctl.json, "info", |value| Ok(pairs(value))),
        What::Config => show(&mut client, ctl.json, "config.get", |value| Ok(pairs(value))),
        What::Stats { all } => show(&mut client, ctl.json, "stats.get", |value| stats(value, *all)),
        What::Metrics => {
            let value = client.ask("metrics.get", json!({}))?;
            print(&metrics(&value))
        }
        What::Flows(options) => flows::run(&mut client, options, ctl.json),
        What::Forward { command } => match command {
            ForwardCommand::List => show(&mut client, ctl.json, "forward.list", forwards::table),
            ForwardCommand::Add(ports) => {
                let value = client.ask("forward.add", json!({ "forwards": ports.forwards()? }))?;
                print(&if ctl.json { json_line(&value) } else { forwards::table(&value)? })
            }
            ForwardCommand::Del { ids } => client.ask("forward.delete", json!({ "ids": ids })).map(drop),
        },
        What::Capture { command } => captures::run(&mut client, command, ctl.json),
        What::Log { level } => {
            let value = match level {
                Some(level) => client.ask("log.set", json!({ "level": level.to_string() }))?,
                None => client.ask("log.get", json!({}))?,
            };
            print(&if ctl.json { json_line(&value) } else { level_line(&value) })
        }
        What::Quit => client.ask("quit", json!({})).map(drop),
    }
}

/// Asks and prints, as JSON or as `text` makes it.
fn show(
    client: &mut Client,
    json: bool,
    method: &str,
    text: impl FnOnce(&Value) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let value = client.ask(method, json!({}))?;
    print(&if json { json_line(&value) } else { text(&value)? })
}

/// As the instance says it, on a line.
fn json_line(value: &Value) -> String {
    harmless_json(&format!("{value}\n"))
}

fn metrics(value: &Value) -> String {
    harmless_lines(value["text"].as_str().unwrap_or_default())
}

fn level_line(value: &Value) -> String {
    format!("{}\n", harmless(&value["level"].as_str().unwrap_or_default().to_lowercase()))
}

/// An object, a line a member, those of members with their names in front. What is too long for the terminal goes on below.
fn pairs(value: &Value) -> String {
    let mut all = Vec::new();
    flatten("", value, &mut all);
    let names = all.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let room = table::width().map(|width| width.saturating_sub(names + 2)).filter(|room| *room > 0);
    let mut table = Table::new(&[]);
    for (name, text) in all {
        for (nth, part) in table::wrapped(&text, room.unwrap_or(usize::MAX)).into_iter().enumerate() {
            table.row([if nth == 0 { name.clone() } else { String::new() }, part]);
        }
    }
    table.render(table::width())
}

fn flatten(name: &str, value: &Value, all: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Object(members) => {
            for (member, value) in members {
                let whole = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
                flatten(&whole, value, all);
            }
            return;
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                all.push((name.into(), item.to_string()));
            }
            return;
        }
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => plain(other),
    };
    all.push((name.into(), text));
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

fn stats(value: &Value, all: bool) -> anyhow::Result<String> {
    if let Some(events) = value["events"].as_object() {
        return responder_stats(events, value, all);
    }
    let stats: Stats = serde_json::from_value(value.clone())?;
    let mut table = Table::new(&["", "FRAMES", "BYTES"]);
    table.right(&[1, 2]);
    table.row(["from the guest".into(), stats.frames_from_guest.to_string(), table::bytes(stats.bytes_from_guest)]);
    table.row(["to the guest".into(), stats.frames_to_guest.to_string(), table::bytes(stats.bytes_to_guest)]);
    let flows = &stats.flows;
    let mut text = table.render(None);
    text.push_str(&format!(
        "\nflows: {} TCP, {} UDP, {} ICMP; past the link {} TCP, {} UDP\n",
        flows.tcp, flows.udp, flows.icmp, flows.tcp_splice, flows.udp_splice
    ));
    let captures = &stats.captures;
    if captures.running > 0 || captures.frames > 0 {
        let (running, frames, lost) = (captures.running, captures.frames, captures.lost);
        text.push_str(&format!("captures: {running} running; {frames} frames recorded, {lost} lost\n"));
    }
    text.push_str(&dropped("NOT FORWARDED", &stats.drops, all));
    Ok(text)
}

fn responder_stats(events: &serde_json::Map<String, Value>, value: &Value, all: bool) -> anyhow::Result<String> {
    let mut table = Table::new(&["", "FRAMES"]);
    table.right(&[1]);
    events.iter().for_each(|(name, count)| table.row([name.clone(), count.to_string()]));
    let mut text = table.render(None);
    let number = |name: &str| harmless(&value[name].to_string());
    text.push_str(&format!(
        "\ntargets: {} asked for behind, {} of containers\n",
        number("targets"),
        number("containers")
    ));
    let drops: Vec<Drops> = serde_json::from_value(value["drops"].clone())?;
    text.push_str(&dropped("NOT ANSWERED", &drops, all));
    Ok(text)
}

/// A table behind an empty line, or nothing.
fn dropped(title: &str, drops: &[Drops], all: bool) -> String {
    let mut table = Table::new(&[title, "FRAMES", "MEANING"]);
    table.right(&[1]);
    let shown = drops.iter().filter(|d| all || d.count > 0);
    shown.for_each(|d| table.row([d.reason.clone(), d.count.to_string(), d.meaning.clone()]));
    if table.is_empty() { String::new() } else { format!("\n{}", table.render(table::width())) }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    const ESCAPES: &str = "\x1b[7m\u{9b}7m\r\x07";

    /// Of what an instance says in each place, nothing but the line's end is for a terminal to obey.
    fn check(text: &str) {
        assert!(text.contains("[7m") && text.ends_with('\n'), "{text:?}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn nothing_that_an_instance_says_is_for_the_terminal_to_obey() {
        check(&metrics(&json!({ "text": format!("# HELP {ESCAPES}\n# EOF\n") })));
        assert_eq!(metrics(&json!({ "text": "a 1\nb 2\n" })), "a 1\nb 2\n");
        check(&level_line(&json!({ "level": ESCAPES })));
        assert_eq!(level_line(&json!({ "level": "DEBUG" })), "debug\n");
        check(&json_line(&json!({ ESCAPES: [ESCAPES, { "x": ESCAPES }] })));
        check(&pairs(&json!({ ESCAPES: ESCAPES, "x": [{ "y": ESCAPES }], "z": [ESCAPES] })));
        let drop = json!({ "reason": ESCAPES, "meaning": ESCAPES, "count": 1 });
        let events =
            json!({ "events": { ESCAPES: ESCAPES }, "targets": ESCAPES, "containers": ESCAPES, "drops": [drop] });
        check(&stats(&events, true).unwrap());
        let quoted = serde_json::from_value::<Drops>(ESCAPES.into()).unwrap_err();
        let complaint = complaint(&Err::<(), _>(quoted).context(ESCAPES.to_owned()).unwrap_err());
        check(&format!("{complaint}\n"));
        assert_eq!(super::complaint(&anyhow::anyhow!("no\n  number 1: x")), "no\n  number 1: x");
    }
}
