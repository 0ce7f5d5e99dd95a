//! The table of flows, once or again and again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::FlowOptions;
use super::client::Client;
use super::screen::Screen;
use super::table::{self, Table};
use crate::control::protocol::{Flow, Flows, Info, Stats};

/// # Errors
/// The instance does not answer, or not as this version understands.
pub fn run(client: &mut Client, options: &FlowOptions, json: bool) -> anyhow::Result<()> {
    let Some(seconds) = options.watch else {
        let value = client.ask("flows.list", serde_json::to_value(options.filter())?)?;
        if json {
            return super::print(&super::json_line(&value));
        }
        let flows: Flows = serde_json::from_value(value)?;
        return super::print(&once(&flows, options.host));
    };
    watch(client, options, json, Duration::from_secs_f64(seconds))
}

fn once(flows: &Flows, host: bool) -> String {
    let mut text = table(&flows.flows, host, None).render(table::width());
    if flows.total > flows.flows.len() {
        text.push_str(&format!("... and {} more (option '--limit')\n", flows.total - flows.flows.len()));
    }
    text
}

/// Until the instance ends or the user has seen enough.
fn watch(client: &mut Client, options: &FlowOptions, json: bool, period: Duration) -> anyhow::Result<()> {
    let mut screen = if json || table::size().is_none() { None } else { Some(Screen::open()?) };
    let mut before = Seen::default();
    loop {
        let size = table::size().filter(|_| screen.is_some());
        let mut filter = options.filter();
        let shown = options.limit.or(size.map(|(_, lines)| lines.saturating_sub(HEAD)));
        filter.limit = shown.map(|shown| shown * AHEAD);
        let value = client.ask("flows.list", serde_json::to_value(&filter)?)?;
        if json {
            super::print(&super::json_line(&value))?;
        } else {
            let flows: Flows = serde_json::from_value(value)?;
            let now = Seen::of(&flows);
            let text = page(client, &flows, options, (&before, &now), (shown, size))?;
            match &screen {
                Some(screen) => screen.draw(&text)?,
                None => super::print(&text)?,
            }
            before = now;
        }
        let more = match &mut screen {
            Some(screen) => screen.wait(period)?,
            None => {
                std::thread::sleep(period);
                true
            }
        };
        if !more {
            return Ok(());
        }
    }
}

/// Lines before the first flow.
const HEAD: usize = 4;
/// As many are asked for as are shown, times this: those that come into view soon have a rate from the start.
const AHEAD: usize = 3;

/// One screen: a line about the instance, one about all flows, and as many of them as fit.
fn page(
    client: &mut Client,
    flows: &Flows,
    options: &FlowOptions,
    seen: (&Seen, &Seen),
    (most, size): (Option<usize>, Option<(usize, usize)>),
) -> anyhow::Result<String> {
    let info: Info = ask(client, "info")?;
    let stats: Stats = ask(client, "stats.get")?;
    let rates = Rates::between(seen.0, seen.1);
    let shown = &flows.flows[..flows.flows.len().min(most.unwrap_or(usize::MAX))];
    let mut text = String::new();
    let width = size.map(|(columns, _)| columns);
    let mut head = Table::new(&[]);
    head.row([format!(
        "{} {} (pid {}) {}, up {}",
        info.program,
        info.mode,
        info.pid,
        info.target,
        table::duration(info.uptime_seconds)
    )]);
    let dropped: u64 = stats.drops.iter().map(|d| d.count).sum();
    head.row([format!(
        "{} flows, {} shown; from guest {}, to guest {}; {dropped} frames not forwarded",
        flows.total,
        shown.len(),
        table::bytes(stats.bytes_from_guest),
        table::bytes(stats.bytes_to_guest),
    )]);
    text.push_str(&head.render(width));
    text.push('\n');
    text.push_str(&table(shown, options.host, Some(&rates)).render(width));
    Ok(text)
}

fn ask<T: serde::de::DeserializeOwned>(client: &mut Client, method: &str) -> anyhow::Result<T> {
    Ok(serde_json::from_value::<T>(client.ask(method, json!({}))?)?)
}

/// What identifies a flow from one look to the next.
type Key = (String, String, String);

fn key(flow: &Flow) -> Key {
    (flow.protocol.clone(), flow.guest.clone(), flow.remote.clone())
}

/// Bytes either way, at a moment.
#[derive(Default)]
struct Seen {
    at: Option<Instant>,
    bytes: HashMap<Key, (u64, u64)>,
}

impl Seen {
    fn of(flows: &Flows) -> Seen {
        let bytes = flows.flows.iter().map(|f| (key(f), (f.bytes_from_guest, f.bytes_to_guest)));
        Seen { at: Some(Instant::now()), bytes: bytes.collect() }
    }
}

/// Bytes a second either way.
struct Rates(HashMap<Key, (u64, u64)>);

impl Rates {
    fn between(before: &Seen, now: &Seen) -> Rates {
        let seconds = now.at.zip(before.at).map_or(1.0, |(now, before)| (now - before).as_secs_f64()).max(0.001);
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        let rates = now.bytes.iter().filter_map(|(key, (from, to))| {
            let (from_before, to_before) = before.bytes.get(key)?;
            Some((key.clone(), (rate(*from, *from_before), rate(*to, *to_before))))
        });
        Rates(rates.collect())
    }
}

fn table(flows: &[Flow], host: bool, rates: Option<&Rates>) -> Table {
    let (from, to) = if rates.is_some() { ("FROM/s", "TO/s") } else { ("FROM", "TO") };
    let mut head = vec!["PROTO", "GUEST", "", "REMOTE", "STATE", from, to, "AGE", "IDLE", "RTT", "RESENT"];
    if host {
        head.push("HOST");
    }
    head.push("WAITS FOR");
    let mut table = Table::new(&head);
    table.right(&[5, 6, 7, 8, 9, 10]);
    // Whoever asks for the ends on the host wants them first.
    table.give_up(if host { &[10, 8, 9, 7, 12] } else { &[10, 8, 9, 7] });
    table.shorten(if host { &[1, 3, 11] } else { &[1, 3] });
    for f in flows {
        let (from, to) = match rates {
            Some(rates) => rates.0.get(&key(f)).copied().unwrap_or_default(),
            None => (f.bytes_from_guest, f.bytes_to_guest),
        };
        let arrow = if f.by == "guest" { "->" } else { "<-" };
        let rtt = f.rtt.map_or_else(|| "-".into(), |s| format!("{:.0} us", s * 1e6));
        let mut row = vec![
            f.protocol.clone(),
            f.guest.clone(),
            arrow.into(),
            f.remote.clone(),
            f.state.clone(),
            table::bytes(from),
            table::bytes(to),
            table::duration(f.age),
            table::duration(f.idle),
            rtt,
            f.resent.to_string(),
        ];
        if host {
            row.push(f.host.as_ref().map_or_else(|| "-".into(), |e| format!("{} -> {}", e.local, e.peer)));
        }
        row.push(f.waits_for.clone().unwrap_or_else(|| "-".into()));
        table.row(row);
    }
    table
}

/// For the table of one reply, in tests.
#[cfg(test)]
fn rendered(value: serde_json::Value) -> String {
    once(&serde_json::from_value(value).unwrap(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_a_line() {
        let text = rendered(json!({ "total": 3, "flows": [{
            "protocol": "tcp", "guest": "10.0.2.15:4000", "remote": "192.0.2.1:443", "by": "guest", "state": "established",
            "age": 61.5, "idle": 0.25, "bytes_from_guest": 1200, "frames_from_guest": 3, "bytes_to_guest": 5_000_000,
            "frames_to_guest": 90, "rtt": 0.000031, "resent": 2 }] }));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("PROTO  GUEST"), "{text}");
        for part in ["tcp    10.0.2.15:4000  ->  192.0.2.1:443", "1.20 kB", "5.00 MB", "1m 1s", "0.2s", "31 us"] {
            assert!(lines[1].contains(part), "{part} in {text}");
        }
        assert_eq!(lines[2], "... and 2 more (option '--limit')");
    }
}
