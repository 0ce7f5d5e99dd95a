//! pesto: shows and changes what a running instance forwards, one of ours or of passt's and pasta's.
//!
//! The instance says what there is; the options of the command line make of it what there is to be (`edit`, pure); the
//! instance is told (`exchange`). Then we make sure, because the protocol has no answer. An instance of ours answers all the
//! same, and has changed nothing if it could not do all of it. Others keep rules whose ports they could not bind, which are then
//! in the way of later ones: of those we ask for the tables again, look for the sockets in the kernel's lists (`kernel`), and
//! if some are missing put back what was there before.
//!
//! Limits: sockets in the guest's namespace are not in our kernel's lists, and none of an instance's are if it runs in
//! another network namespace than we do; then the tables have to do.
//!
//! System calls: socket, connect, setsockopt (`SO_RCVTIMEO`, `SO_SNDTIMEO`), recvfrom, sendto, getpeername, close; openat, read
//! (`/proc`); write (what is shown).

mod edit;
mod exchange;
mod kernel;

use std::io::Write;

use anyhow::bail;

use crate::app::ephemeral_ports;
use crate::config::pesto::Wanted;
use crate::control::pesto::codec::{HOST, Table};
use crate::fwd::ports::Rule;
use crate::logging;
use crate::sys::terminal::harmless;
use exchange::{Exchange, Outcome};
use kernel::Listening;

/// Does what is wanted, and returns the exit status.
pub fn main(wanted: &Wanted) -> u8 {
    match run(wanted) {
        Ok(()) => 0,
        Err(e) => {
            let text = format!("{e:#}");
            // There is nobody else to tell.
            let _ = writeln!(std::io::stderr(), "pesto: {}", harmless(&logging::plain(&text)));
            1
        }
    }
}

fn run(wanted: &Wanted) -> anyhow::Result<()> {
    let (exchange, before) = Exchange::open(&wanted.path)?;
    tell(wanted, || format!("tables of the instance: {}", abilities(&before)));
    if wanted.steps.is_empty() {
        return show("passt/pasta configuration", wanted, &before);
    }
    if wanted.show {
        show("Previous configuration", wanted, &before)?;
    }
    let mut after = before.clone();
    edit::apply(&mut after, &wanted.steps, &ephemeral_ports()).map_err(anyhow::Error::msg)?;
    if after == before {
        tell(wanted, || "all is as wanted already".into());
    } else {
        let listening = Listening::look();
        let place = exchange.bound_to();
        match exchange.update(&after)? {
            Outcome::Done => tell(wanted, || "the instance has done it".into()),
            Outcome::Refused(why) => bail!("nothing was changed: {why}"),
            Outcome::Silent => {
                let is_here = place.is_some_and(|path| kernel::is_here(&path));
                tell(wanted, || format!("the instance does not answer; its sockets can be seen from here: {is_here}"));
                make_sure(wanted, &before, &after, is_here.then_some(&listening))?;
            }
        }
    }
    if wanted.show { show("Updated configuration", wanted, &after) } else { Ok(()) }
}

/// That an instance that does not answer has done what it was asked for. `listening`: what did before, if it can be seen.
fn make_sure(wanted: &Wanted, before: &[Table], after: &[Table], listening: Option<&Listening>) -> anyhow::Result<()> {
    // Its turn to speak comes when it is through with the last request.
    let (exchange, now) = Exchange::open(&wanted.path)?;
    if !is_same(&now, after) {
        bail!("the instance has not taken the new tables: what it has logged says why");
    }
    let Some(listening) = listening else { return Ok(()) };
    let look = Listening::look();
    let (old, new) = (rules(before), rules(after));
    let mut failed = Vec::new();
    for rule in new.iter().filter(|rule| !rule.auto && !old.contains(rule)) {
        let missing = look.missing(rule, listening, &old);
        let ports = usize::from(rule.last - rule.first) + 1;
        if if rule.best_effort { missing.len() == ports } else { !missing.is_empty() } {
            failed.push(format!("{} (port {})", rule.summary(), kernel::some(&missing)));
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let restored = exchange.update(before).and_then(|_| Exchange::open(&wanted.path));
    let restored = match restored {
        Ok((_, now)) if is_same(&now, before) => "the tables are as they were",
        _ => "the tables could not be put back as they were",
    };
    bail!("the instance does not listen for {}; {restored}; what it has logged says why", failed.join(", "))
}

/// In whatever order.
fn is_same(a: &[Table], b: &[Table]) -> bool {
    let has = |all: &[Table], one: &Table| {
        all.iter().any(|t| {
            t.id == one.id && t.rules.len() == one.rules.len() && one.rules.iter().all(|r| t.rules.contains(r))
        })
    };
    a.len() == b.len() && a.iter().all(|one| has(b, one))
}

/// Those whose sockets are in the namespace that the instance runs in.
fn rules(tables: &[Table]) -> Vec<Rule> {
    tables.iter().filter(|t| t.id == HOST).flat_map(|t| t.rules.iter().cloned()).collect()
}

/// Programs read this: the same lines, to the blank, as pesto's own.
fn show(title: &str, wanted: &Wanted, tables: &[Table]) -> anyhow::Result<()> {
    let mut text = format!("{title} ({})\n", wanted.path.display());
    for table in tables {
        text.push_str(&format!("  {}\n", harmless(&table.name)));
        for rule in &table.rules {
            let blank = if rule.best_effort || rule.auto { "" } else { " " };
            text.push_str(&format!("    {}{blank}\n", harmless(&rule.summary())));
        }
    }
    match write!(std::io::stdout(), "{text}") {
        // Who reads us has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn abilities(tables: &[Table]) -> String {
    let one = |t: &Table| {
        let names: Vec<&str> = t.abilities.iter_names().map(|(name, _)| name).collect();
        format!("{} (rules: {}; {})", t.name, t.rules.len(), names.join(" "))
    };
    tables.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn tell(wanted: &Wanted, what: impl FnOnce() -> String) {
    if wanted.debug {
        let _ = writeln!(std::io::stderr(), "pesto: {}", harmless(&what()));
    }
}
