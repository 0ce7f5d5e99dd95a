//! The control thread: how what it is asked for is carried out by the workers.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use nix::errno::Errno;
use serde_json::Value;

use super::captures::Archive;
use super::desk::{self, Clerk, Unattended};
use super::engine::Engine;
use super::follow::Shown;
use super::rules::{ephemeral_ports, only_family};
use crate::base::{Counters, Family, Instant, Token};
use crate::config::{Config, Mode, Target};
use crate::control::capture::{Capture, CaptureOptions, Captures};
use crate::control::choice::Found;
use crate::control::metrics;
use crate::control::protocol::{
    self, BindErrors, Blame, CaptureCounts, FAILED, Failure, Filter, FlowCounts, Forward, ForwardOption, Info,
    NewForward, Stats,
};
use crate::control::service::{Backend, Owner, Service};
use crate::flow::{Ledger, Passed, Sight};
use crate::fwd::ports::{Ports, Spec};
use crate::fwd::{Proto, Side};
use crate::listen::{self, ForwardId};

/// The caller's event for a request to end.
pub(super) const ASKED_TO_QUIT: Token = Token { kind: crate::base::Kind::Quit, generation: 0, index: 4 };

/// All that the thread needs.
pub(super) struct Controller {
    service: Service,
    office: Office,
}

/// The workers, and what is known from the start.
pub(super) struct Office {
    clerks: Vec<Clerk>,
    pub(super) archive: Archive,
    started: std::time::Instant,
    info: Info,
    config: Shown,
    only: Option<Family>,
    /// Protocols that are switched off.
    off: Vec<Proto>,
    ephemeral: RangeInclusive<u16>,
}

impl Controller {
    /// `shown`: the effective configuration, whenever it is asked for.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(
        listener: UnixListener,
        config: &Config,
        (clerks, archive): (Vec<Clerk>, Archive),
        shown: Shown,
    ) -> io::Result<Controller> {
        let office = Office {
            started: std::time::Instant::now(),
            info: info(config, clerks.len()),
            clerks,
            archive,
            config: shown,
            only: only_family(config),
            off: [Proto::Tcp, Proto::Udp].into_iter().filter(|proto| !config.carries(*proto)).collect(),
            ephemeral: ephemeral_ports(),
        };
        Ok(Controller { service: Service::new(listener, owner())?, office })
    }

    /// Serves for as long as the process lives.
    ///
    /// # Errors
    /// Polling failed.
    pub fn run(self) -> io::Result<()> {
        self.service.run(&self.office)
    }
}

/// Who may ask, to be found out before we become somebody else.
pub(super) fn owner() -> Owner {
    Owner::here(crate::sandbox::is_privileged())
}

fn info(config: &Config, workers: usize) -> Info {
    let (mode, target) = match &config.mode {
        Mode::Spawn { command, .. } => {
            let words: Vec<_> = command.iter().map(|w| w.to_string_lossy().into_owned()).collect();
            ("run", words.join(" "))
        }
        Mode::Attach { target, .. } => {
            let text = match target {
                Target::Pid(pid) => pid.to_string(),
                Target::Path(path) => path.display().to_string(),
                Target::Name(name) => name.clone(),
                Target::Descriptor(fd) => format!("descriptor {fd}"),
            };
            ("attach", text)
        }
        Mode::Machine { .. } => ("vm", String::new()),
    };
    Info {
        protocol: protocol::VERSION,
        program: config.personality.name().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        mode: mode.into(),
        target,
        uptime_seconds: 0.0,
        workers,
    }
}

impl Office {
    /// Of every worker.
    pub(super) fn ask_all<T: Send + 'static>(
        &self,
        job: impl Fn(&mut Engine, Instant) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Failure> {
        let asked: Result<Vec<_>, _> = self.clerks.iter().map(|clerk| clerk.ask(job.clone())).collect();
        Ok(asked?.into_iter().map(|answer| answer.wait()).collect::<Result<_, _>>()?)
    }

    /// Of the one that has the listeners.
    fn ask_first<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine, Instant) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let first = self.clerks.first().ok_or(Unattended)?;
        Ok(first.ask(job)?.wait()?)
    }

    fn count(&self) -> Result<Stats, Failure> {
        let all = self.ask_all(|engine, _| (engine.own_counters(), engine.flows()))?;
        let mut counters = Counters::default();
        let mut flows = FlowCounts::default();
        for (own, n) in all {
            counters.add(&own);
            flows.tcp += n.tcp;
            flows.udp += n.udp;
            flows.icmp += n.icmp;
            flows.tcp_splice += n.spliced_tcp;
            flows.udp_splice += n.spliced_udp;
        }
        Ok(Stats::new(&counters, flows, CaptureCounts::of(&self.archive.recordings)))
    }

    /// As [`Office::ask_first`], what changes something.
    fn have_first_do<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let first = self.clerks.first().ok_or(Unattended)?;
        Ok(first.have_done(job, desk::PATIENCE)?)
    }

    fn rules(&self, new: &NewForward) -> Result<Vec<listen::Forward>, String> {
        let (proto, on, name) = meaning(new.option);
        if self.off.contains(&proto) {
            return Err("its protocol is switched off".into());
        }
        let mut spec = match on {
            Side::Host => Spec::parse(proto, &new.spec)?,
            Side::Guest => Spec::parse_outbound(proto, &new.spec)?,
        };
        if let Some(family) = self.only
            && !spec.limit(family)
        {
            return Err("its address is of the IP version that is switched off".into());
        }
        let rules = Ports::Specs(vec![spec]).rules(&self.ephemeral)?;
        let origin = format!("{name} {}", new.spec);
        Ok(rules.into_iter().map(|rule| listen::Forward { rule, on, origin: origin.clone() }).collect())
    }
}

impl Backend for Office {
    fn info(&self) -> Info {
        Info { uptime_seconds: self.started.elapsed().as_secs_f64(), ..self.info.clone() }
    }

    fn config(&self) -> Value {
        serde_json::from_str(&self.config.json()).unwrap_or_default()
    }

    fn stats(&self) -> Result<Value, Failure> {
        Ok(protocol::json(&self.count()?))
    }

    fn metrics(&self) -> Result<String, Failure> {
        Ok(metrics::text(&self.info(), &self.count()?))
    }

    fn flows(&self, filter: &Filter) -> Result<Found, Failure> {
        let filter = filter.clone();
        let mut found = Found::default();
        for of_one in self.ask_all(move |engine, now| engine.find(&filter, now))? {
            found.total += of_one.total;
            found.views.extend(of_one.views);
        }
        Ok(found)
    }

    fn forwards(&self) -> Result<Vec<Forward>, Failure> {
        let mut passed = Ledger::default();
        self.ask_all(|engine, _| engine.passed())?.iter().for_each(|own| passed.add_all(own));
        let shown = |engine: &mut Engine| engine.forwards().map(|(id, f)| (id, f.on, engine.shown(id, f))).collect();
        let mut all: Vec<(ForwardId, Side, Forward)> = self.ask_first(move |engine, _| shown(engine))?;
        for (id, on, forward) in &mut all {
            count(forward, *on, passed.of(id.via()));
        }
        Ok(all.into_iter().map(|(_, _, forward)| forward).collect())
    }

    fn add_forwards(&self, rules: Vec<NewForward>) -> Result<Vec<Forward>, Failure> {
        let mut wanted = Vec::new();
        let mut blamed = Vec::new();
        for (index, new) in rules.iter().enumerate() {
            match self.rules(new) {
                Ok(forwards) => wanted.extend(forwards.into_iter().map(|f| (index, f))),
                Err(message) => blamed.push(Blame { index, message }),
            }
        }
        if !blamed.is_empty() {
            return Err(refusal("no forward was added: not all specifications are valid", blamed));
        }
        self.have_first_do(move |engine| engine.add_all(wanted))?
            .map_err(|blame| refusal("no forward was added: not all ports could be had", vec![blame]))
    }

    fn delete_forwards(&self, ids: Vec<u64>) -> Result<(), Failure> {
        self.have_first_do(move |engine| engine.delete_all(&ids))?
            .map_err(|blamed| refusal("no forward was deleted: there are no such forwards", blamed))
    }

    fn captures(&self) -> Captures {
        self.all_captures()
    }

    fn start_capture(&self, options: CaptureOptions, output: Option<OwnedFd>) -> Result<Capture, Failure> {
        self.begin_capture(options, output)
    }

    fn stop_captures(&self, ids: Vec<u64>) -> Result<Captures, Failure> {
        self.end_captures(&ids)
    }

    fn quit(&self) {
        // One that has ended has nothing to end.
        let _ = self.ask_first(|engine, _| engine.due.push(ASKED_TO_QUIT));
    }
}

impl Engine {
    /// Flows that `filter` takes. Sockets are asked for those only that may be listed, if there are few, so that it does not take
    /// longer than a turn.
    fn find(&self, filter: &Filter, now: Instant) -> Found {
        const FEW: usize = 2000;
        let (mut total, mut sights) = filter.choose(self.sights(now), |sight| &sight.view);
        if total == 0 && filter.host && (filter.port.is_some() || filter.address.is_some()) {
            // An end that the guest does not know of.
            let asked = self.sights(now).map(|s| if filter.may_take(&s.view) { s.with_ends(true) } else { s });
            (total, sights) = filter.choose(asked, |sight| &sight.view);
        }
        let few = sights.len() <= FEW;
        let view = |sight: Sight<'_>| if few { sight.with_ends(filter.host).view } else { sight.view };
        Found { total, views: sights.into_iter().map(view).collect() }
    }

    fn sights(&self, now: Instant) -> impl Iterator<Item = Sight<'_>> {
        let splice = self.splice.iter().flat_map(move |splice| splice.views(now));
        self.tcp.views(now).chain(self.udp.views(now)).chain(self.icmp.views(now)).chain(splice)
    }

    fn shown(&self, id: ForwardId, forward: &listen::Forward) -> Forward {
        let status = self.forward_status(id);
        Forward {
            id: id.number(),
            option: option_of(forward.rule.proto, forward.on),
            spec: forward.rule.to_string(),
            origin: forward.origin.clone(),
            open: status.open,
            bind_errors: bind_errors(&status.refused),
            refused: status.refused.into_iter().map(|(port, _)| port).collect(),
            hits: status.hits,
            bytes_to_guest: 0,
            bytes_from_guest: 0,
        }
    }

    /// Adds all, or none: then it says which could not be had.
    fn add_all(&mut self, wanted: Vec<(usize, listen::Forward)>) -> Result<Vec<Forward>, Blame> {
        let mut added = Vec::new();
        for (index, forward) in wanted {
            match self.add_forward(forward) {
                Ok(id) => added.push(id),
                Err(e) => {
                    added.into_iter().for_each(|id| drop(self.remove_forward(id)));
                    return Err(Blame { index, message: e.to_string() });
                }
            }
        }
        let shown = |id| self.forward(id).map(|f| self.shown(id, f));
        Ok(added.into_iter().filter_map(shown).collect())
    }

    fn delete_all(&mut self, ids: &[u64]) -> Result<(), Vec<Blame>> {
        let known: Vec<Option<ForwardId>> =
            ids.iter().map(|id| ForwardId::from_number(*id).filter(|id| self.forward(*id).is_some())).collect();
        let blame = |(index, _)| Blame { index, message: format!("nothing is forwarded by the id {}", ids[index]) };
        let blamed: Vec<Blame> = known.iter().enumerate().filter(|(_, id)| id.is_none()).map(blame).collect();
        if !blamed.is_empty() {
            return Err(blamed);
        }
        known.into_iter().flatten().for_each(|id| drop(self.remove_forward(id)));
        Ok(())
    }
}

impl From<Unattended> for Failure {
    fn from(_: Unattended) -> Failure {
        Failure::new(FAILED, "a worker does not answer: it has too much to do, or the program is ending")
    }
}

pub(super) fn refusal(message: &str, data: Vec<Blame>) -> Failure {
    Failure { code: FAILED, message: message.into(), data }
}

/// Adds what has come by a forward whose sockets listen `on` this side.
fn count(forward: &mut Forward, on: Side, passed: Passed) {
    (forward.bytes_to_guest, forward.bytes_from_guest) = match on {
        Side::Host => (passed.to_target, passed.to_client),
        Side::Guest => (passed.to_client, passed.to_target),
    };
    // Connections are counted when they are accepted, those that were turned away too.
    if matches!(forward.option, ForwardOption::UdpToGuest | ForwardOption::UdpToHost) {
        forward.hits = passed.flows;
    }
}

/// By reason, in the order of the first port that each has.
fn bind_errors(refused: &[(u16, Errno)]) -> Vec<BindErrors> {
    let mut groups: Vec<(Errno, Vec<(u16, u16)>)> = Vec::new();
    for (port, why) in refused {
        let at = groups.iter().position(|(other, _)| other == why).unwrap_or_else(|| {
            groups.push((*why, Vec::new()));
            groups.len() - 1
        });
        match groups[at].1.last_mut() {
            Some((_, last)) if *last + 1 == *port => *last = *port,
            _ => groups[at].1.push((*port, *port)),
        }
    }
    let range = |(a, b): &(u16, u16)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    let ports = |ranges: &[(u16, u16)]| ranges.iter().map(range).collect::<Vec<_>>().join(",");
    groups.iter().map(|(why, ranges)| BindErrors { ports: ports(ranges), message: why.desc().into() }).collect()
}

fn option_of(proto: Proto, on: Side) -> ForwardOption {
    match (proto, on) {
        (Proto::Tcp, Side::Host) => ForwardOption::TcpToGuest,
        (Proto::Udp, Side::Host) => ForwardOption::UdpToGuest,
        (Proto::Tcp, Side::Guest) => ForwardOption::TcpToHost,
        (Proto::Udp, Side::Guest) => ForwardOption::UdpToHost,
    }
}

/// What the option forwards, where its sockets listen, and its name.
fn meaning(option: ForwardOption) -> (Proto, Side, &'static str) {
    match option {
        ForwardOption::TcpToGuest => (Proto::Tcp, Side::Host, "-t"),
        ForwardOption::UdpToGuest => (Proto::Udp, Side::Host, "-u"),
        ForwardOption::TcpToHost => (Proto::Tcp, Side::Guest, "-T"),
        ForwardOption::UdpToHost => (Proto::Udp, Side::Guest, "-U"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_gathered_by_the_reason_they_do_not_listen() {
        let (taken, denied) = (Errno::EADDRINUSE, Errno::EACCES);
        let refused = [(1, denied), (2, denied), (3, taken), (4, denied), (65534, denied), (65535, denied)];
        let told: Vec<_> = bind_errors(&refused).into_iter().map(|e| (e.ports, e.message)).collect();
        let expected = [("1-2,4,65534-65535", "Permission denied"), ("3", "Address already in use")];
        assert_eq!(told, expected.map(|(ports, message)| (ports.to_string(), message.to_string())));
        assert!(bind_errors(&[]).is_empty());
    }
}
