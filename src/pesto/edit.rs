//! What the options of the command line make of the tables. Pure.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::base::Family;
use crate::config::pesto::{Given, Step};
use crate::control::pesto::codec::{self, Abilities, Table};
use crate::fwd::Proto;
use crate::fwd::ports::{Ports, Rule};

/// What is done with ports that are given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The first of a table empties it.
    Replace,
    Add,
    Delete,
}

/// Carries out the steps in their order. `ephemeral`: as [`Ports::rules`] has it.
///
/// # Errors
/// Which step cannot be done, and why; the tables are not of use then.
pub fn apply(tables: &mut [Table], steps: &[Step], ephemeral: &RangeInclusive<u16>) -> Result<(), String> {
    let mut mode = Mode::Replace;
    let mut emptied = BTreeSet::new();
    for step in steps {
        match step {
            Step::Add => mode = Mode::Add,
            Step::Delete => mode = Mode::Delete,
            Step::Clear(name) => {
                let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
                let unknown = format!("there is no table '{name}': give one of {}", names.join(", "));
                let table = tables.iter_mut().find(|t| t.name == *name).ok_or(unknown)?;
                table.rules.clear();
                emptied.insert(table.id);
            }
            Step::Ports(given) => {
                let id = codec::id_of(given.on);
                let nowhere = || format!("option '{}': this instance has no namespace to forward from", given.option);
                let table = tables.iter_mut().find(|t| t.id == id).ok_or_else(nowhere)?;
                if mode == Mode::Replace && emptied.insert(id) {
                    table.rules.clear();
                }
                let rules = rules(given, table.abilities, ephemeral);
                let rules = rules.map_err(|why| format!("'{} {}': {why}", given.option, given.text))?;
                let change = if mode == Mode::Delete { delete } else { add };
                rules.into_iter().try_for_each(|rule| change(table, rule))?;
            }
        }
    }
    Ok(())
}

fn rules(given: &Given, abilities: Abilities, ephemeral: &RangeInclusive<u16>) -> Result<Vec<Rule>, String> {
    let Some(mut spec) = given.spec.clone() else { return Ok(Vec::new()) };
    let has = |ability| abilities.contains(ability);
    let proto = if given.proto == Proto::Tcp { Abilities::TCP } else { Abilities::UDP };
    if !has(proto) {
        return Err("the instance has this protocol switched off".into());
    }
    let only = match (has(Abilities::V4), has(Abilities::V6)) {
        (true, false) => Some(Family::V4),
        (false, true) => Some(Family::V6),
        _ => None,
    };
    if only.is_some_and(|family| !spec.limit(family)) {
        return Err("the instance has this IP version switched off".into());
    }
    if spec.is_auto() && !has(Abilities::AUTO) {
        return Err("'auto' is for namespaces: which ports a virtual machine listens on cannot be seen".into());
    }
    let rules = Ports::Specs(vec![spec]).rules(ephemeral)?;
    if rules.iter().any(|r| r.device.is_some()) && !has(Abilities::DEVICES) {
        return Err("the instance cannot listen on one interface only (Linux 5.7 or later)".into());
    }
    Ok(rules)
}

/// What is there already need not be added.
fn add(table: &mut Table, rule: Rule) -> Result<(), String> {
    if table.rules.contains(&rule) {
        return Ok(());
    }
    match table.rules.iter().find(|other| other.conflicts(&rule)) {
        Some(other) => {
            Err(format!("{} cannot be added: {} is there for the same ports", rule.summary(), other.summary()))
        }
        None => {
            table.rules.push(rule);
            Ok(())
        }
    }
}

/// Only the whole of what was added.
fn delete(table: &mut Table, rule: Rule) -> Result<(), String> {
    if let Some(at) = table.rules.iter().position(|other| *other == rule) {
        table.rules.remove(at);
        return Ok(());
    }
    let near = table.rules.iter().find(|other| other.conflicts(&rule));
    let advice =
        near.map_or_else(String::new, |other| format!("; {} is, and can be deleted as a whole", other.summary()));
    Err(format!("{} cannot be deleted: it is not in the table {}{advice}", rule.summary(), table.name))
}

#[cfg(test)]
mod tests;
