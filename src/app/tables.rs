//! Rules as pesto knows them, tables that are replaced as a whole, and how the engine goes from one set of rules to another.

use std::os::unix::net::UnixListener;
use std::time::Duration;
use std::{fmt, io};

use anyhow::Context;

use super::control;
use super::desk::Clerk;
use super::engine::Engine;
use super::rules::only_family;
use crate::base::{Addr, Family};
use crate::config::{Config, Mode};
use crate::control::pesto::codec::{self, Abilities, Table, Update};
use crate::control::pesto::{Backend, Server};
use crate::control::place;
use crate::fwd::ports::Rule;
use crate::fwd::{Proto, Side};
use crate::listen::{BindError, Forward, ForwardId, TakenOut};

/// Listens where `--conf-path` says. `None`: nowhere.
///
/// # Errors
/// The kernel's.
pub(super) fn listen(config: &Config) -> anyhow::Result<Option<UnixListener>> {
    let Some(path) = &config.conf_path else { return Ok(None) };
    let what = || format!("cannot listen at the socket '{}' (option '--conf-path')", path.display());
    place::bind(path).map(Some).with_context(what)
}

/// All that the thread needs.
pub(super) struct Changer {
    server: Server,
    office: Office,
}

impl Changer {
    /// `inside`: sockets can be made in the guest's namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(listener: UnixListener, config: &Config, clerk: Clerk, inside: bool) -> io::Result<Changer> {
        let office = Office {
            clerk,
            only: only_family(config),
            abilities: abilities(config),
            sides: if inside { vec![Side::Host, Side::Guest] } else { vec![Side::Host] },
        };
        Ok(Changer { server: Server::new(listener, control::owner())?, office })
    }

    /// Serves for as long as the process lives.
    ///
    /// # Errors
    /// Polling failed.
    pub fn run(self) -> io::Result<()> {
        self.server.run(&self.office)
    }
}

/// What a rule must keep to, and whom to ask.
struct Office {
    clerk: Clerk,
    only: Option<Family>,
    abilities: Abilities,
    /// Where sockets can listen.
    sides: Vec<Side>,
}

fn abilities(config: &Config) -> Abilities {
    let all = [
        (Abilities::V4, config.v4),
        (Abilities::V6, config.v6),
        (Abilities::TCP, config.tcp),
        (Abilities::UDP, config.udp),
        (Abilities::AUTO, !matches!(config.mode, Mode::Machine { .. })),
        (Abilities::DEVICES, true),
    ];
    all.iter().filter(|(_, on)| *on).map(|(ability, _)| *ability).collect()
}

impl Backend for Office {
    fn tables(&self) -> Result<Vec<Table>, String> {
        let rules = |engine: &mut Engine| engine.forwards().map(|(_, f)| (f.on, f.rule.clone())).collect();
        let all: Vec<(Side, Rule)> = self.ask(move |engine| rules(engine))?;
        let table = |on: &Side| Table {
            id: codec::id_of(*on),
            name: codec::name_of(*on).into(),
            abilities: self.abilities,
            rules: all.iter().filter(|(side, _)| side == on).map(|(_, rule)| rule.clone()).collect(),
        };
        Ok(self.sides.iter().map(table).collect())
    }

    fn replace(&self, updates: Vec<Update>, client: i32) -> Result<(), String> {
        let mut wanted = Vec::new();
        for Update { id, rules } in updates {
            let on = codec::side_of(id).filter(|side| self.sides.contains(side));
            let on = on.ok_or_else(|| format!("nothing is forwarded by a table {id} here"))?;
            for rule in rules {
                let fits = self.fitted(rule, on);
                wanted.push(fits.map_err(|(rule, why)| format!("{}: {why}", rule.summary()))?);
            }
        }
        let change = self.ask(move |engine| engine.replace_forwards(wanted).map_err(|e| e.to_string()))??;
        if change.added + change.removed > 0 {
            log::info!("pesto (pid {client}) has changed what is forwarded: {change}");
        }
        Ok(())
    }
}

impl Office {
    fn ask<T: Send + 'static>(&self, job: impl FnOnce(&mut Engine) -> T + Send + 'static) -> Result<T, String> {
        let done = self.clerk.have_done(job, PATIENCE);
        done.map_err(|_| "a worker does not answer: it has too much to do, or the program is ending".into())
    }

    /// As options of the command line would be taken.
    fn fitted(&self, mut rule: Rule, on: Side) -> Result<Forward, (Rule, &'static str)> {
        if rule.listen.is_none()
            && let Some(family) = self.only
        {
            rule.listen = Some(Addr::unspecified(family));
        }
        let has = |ability| self.abilities.contains(ability);
        let family = rule.listen.map(|a| a.family());
        let proto = if rule.proto == Proto::Tcp { Abilities::TCP } else { Abilities::UDP };
        let loopback = rule.device.as_deref() == Some("lo") || rule.listen.is_some_and(|a| a.is_loopback());
        let refused = [
            (!has(proto), "its protocol is switched off"),
            (family == Some(Family::V4) && !has(Abilities::V4), "IPv4 is switched off"),
            (family == Some(Family::V6) && !has(Abilities::V6), "IPv6 is switched off"),
            (rule.auto && !has(Abilities::AUTO), "which ports a virtual machine listens on cannot be seen"),
            (on == Side::Guest && !loopback, "what leads to the host is listened to on the namespace's loopback only"),
            (on == Side::Guest && rule.target.is_some(), "it leads to the host's loopback: give no target address"),
        ];
        match refused.iter().find(|(applies, _)| *applies) {
            Some((_, why)) => Err((rule, why)),
            None => {
                let origin = format!("pesto {} {rule}", option_of(&rule, on));
                Ok(Forward { rule, on, origin })
            }
        }
    }
}

/// Hundreds of sockets may have to be made, and the client waits a little longer.
const PATIENCE: Duration = Duration::from_secs(8);

fn option_of(rule: &Rule, on: Side) -> &'static str {
    match (rule.proto, on) {
        (Proto::Tcp, Side::Host) => "-t",
        (Proto::Udp, Side::Host) => "-u",
        (Proto::Tcp, Side::Guest) => "-T",
        (Proto::Udp, Side::Guest) => "-U",
    }
}

/// What became of a set of rules.
pub struct Change {
    added: usize,
    removed: usize,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rules added: {}, removed: {}", self.added, self.removed)
    }
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum NotReplaced {
    #[error("{0} and {1} are for the same ports")]
    Conflict(String, String),
    #[error("{0}: {1}")]
    Bind(String, BindError),
    #[error("{0}; but what had to make way could not be opened again, and is gone: {1}")]
    Lost(Box<NotReplaced>, String),
}

impl Engine {
    /// Has exactly these rules be in force, or leaves all as it is. Those that are there already stay, with their sockets and
    /// accounts.
    ///
    /// # Errors
    /// Two that cannot be told apart, or one whose ports cannot be had.
    pub fn replace_forwards(&mut self, mut wanted: Vec<Forward>) -> Result<Change, NotReplaced> {
        for (i, one) in wanted.iter().enumerate() {
            if let Some(other) = wanted[..i].iter().find(|f| f.on == one.on && f.rule.conflicts(&one.rule)) {
                return Err(NotReplaced::Conflict(other.rule.summary(), one.rule.summary()));
            }
        }
        let mut old = Vec::new();
        for (id, forward) in self.forwards() {
            let same = |f: &Forward| f.on == forward.on && f.rule == forward.rule;
            match wanted.iter().position(same) {
                Some(at) => drop(wanted.remove(at)),
                None => old.push((id, forward.clone())),
            }
        }
        // What needs nobody's place can fail without a moment in which anything is closed.
        let in_the_way = |old: &Forward, new: &Forward| old.on == new.on && old.rule.conflicts(&new.rule);
        let (late, early): (Vec<Forward>, Vec<Forward>) =
            wanted.into_iter().partition(|new| old.iter().any(|(_, old)| in_the_way(old, new)));
        let (first, last): (Vec<_>, Vec<_>) =
            old.into_iter().partition(|(_, old)| late.iter().any(|new| in_the_way(old, new)));
        let change = Change { added: early.len() + late.len(), removed: first.len() + last.len() };
        let added = self.add_each(early, Vec::new())?;
        let aside: Vec<TakenOut> = first.iter().filter_map(|(id, _)| self.take_out_forward(*id)).collect();
        if let Err(e) = self.add_each(late, added) {
            return Err(self.put_back_all(aside, e));
        }
        aside.into_iter().for_each(|taken| self.forget_forward(taken));
        last.iter().for_each(|(id, _)| drop(self.remove_forward(*id)));
        Ok(change)
    }

    /// Adds all, to those that were `added` before, or takes all of them out again.
    fn add_each(&mut self, wanted: Vec<Forward>, mut added: Vec<ForwardId>) -> Result<Vec<ForwardId>, NotReplaced> {
        for forward in wanted {
            let summary = forward.rule.summary();
            match self.add_forward(forward) {
                Ok(id) => added.push(id),
                Err(e) => {
                    added.into_iter().for_each(|id| drop(self.remove_forward(id)));
                    return Err(NotReplaced::Bind(summary, e));
                }
            }
        }
        Ok(added)
    }

    /// Puts back what had made way, and says why that was in vain.
    fn put_back_all(&mut self, aside: Vec<TakenOut>, why: NotReplaced) -> NotReplaced {
        let mut lost = Vec::new();
        for taken in aside {
            let summary = taken.forward().rule.summary();
            if let Err(e) = self.put_back_forward(taken) {
                lost.push(format!("{summary} ({e})"));
            }
        }
        if lost.is_empty() { why } else { NotReplaced::Lost(Box::new(why), lost.join(", ")) }
    }
}
