//! In builds that check themselves: looks for what nothing will ever move again. The one failure that edge-triggered events have
//! is a wake-up that is lost, and nobody notices until a transfer stands still.
//!
//! Whenever the loop is about to wait, each engine audits its books: a flow that is said to be queued is queued, one that could
//! move does, what waits for the link waits for a link that takes nothing. A few times a second the kernel is asked as well
//! whether sockets are ready that the engines believe are not. It may be so for a moment, while an event is on its way; if it still
//! is a while later and nothing has been done with the socket, the event is lost. Either ends the process.

use std::collections::HashMap;
use std::time::Duration;

use super::engine::Engine;
use crate::base::{Instant, Kind, Token};
use crate::flow::{Awaited, Belief};
use crate::guest::{Room, ToGuest};
use crate::link::Link;
use crate::sys::readiness::{self, Asked};

/// Between two questions to the kernel. Loops wait no longer.
const PERIOD: Duration = Duration::from_millis(250);
/// Between two audits of so many flows that they take their time.
const MANY: usize = 50;
const MANY_PERIOD: Duration = Duration::from_millis(25);

/// What was found last time.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    audited_at: Instant,
    asked_at: Instant,
    suspects: HashMap<(Token, bool), u64>,
    /// Times that the link's input was looked at.
    pub passes: u64,
}

impl Engine {
    /// The end of a turn.
    ///
    /// # Panics
    /// If anything waits for nothing.
    pub(super) fn watch_over(&mut self, now: Instant) {
        let many = self.flow_count() > MANY;
        if self.wait() == Some(Duration::ZERO) || many && now.since(self.watchdog.audited_at) < MANY_PERIOD {
            return;
        }
        self.watchdog.audited_at = now;
        if let Err(fault) = self.audit() {
            give_alarm(&fault);
        }
        if now.since(self.watchdog.asked_at) >= PERIOD {
            self.watchdog.asked_at = now;
            self.ask_kernel();
        }
    }

    /// How long the loop may wait at most.
    pub(super) fn patience(timer: Option<Duration>) -> Option<Duration> {
        Some(timer.map_or(PERIOD, |t| t.min(PERIOD)))
    }

    fn audit(&self) -> Result<(), String> {
        self.tcp.audit().map_err(|fault| format!("TCP: {fault}"))?;
        self.udp.audit().map_err(|fault| format!("UDP: {fault}"))?;
        self.icmp.audit().map_err(|fault| format!("ICMP: {fault}"))?;
        self.splice.as_ref().map_or(Ok(()), |s| s.audit()).map_err(|fault| format!("splice: {fault}"))?;
        self.link.audit().map_err(|fault| format!("link: {fault}"))?;
        let waits = self.tcp.waits_for_link() || self.udp.waits_for_link() || self.icmp.waits_for_link();
        if waits && self.link.room() == Room::Free && !self.link_takes && !self.link.is_stuck() {
            return Err("flows wait for a link that has room".into());
        }
        Ok(())
    }

    fn ask_kernel(&mut self) {
        let beliefs = self.beliefs();
        let asked = |b: &Belief| Asked::new(b.fd, b.awaited == Awaited::Room);
        let mut answers: Vec<Asked> = beliefs.iter().map(asked).collect();
        if readiness::ask(&mut answers).is_err() {
            return;
        }
        let mut suspects: HashMap<(Token, bool), u64> = HashMap::new();
        for (belief, answer) in beliefs.iter().zip(&answers).filter(|(b, answer)| is_wrong(b, answer)) {
            let name = (belief.token, belief.awaited == Awaited::Room);
            if self.watchdog.suspects.get(&name) == Some(&belief.mark) {
                give_alarm(&format!("{belief:?} has waited for a while, and the kernel says {answer:?}"));
            }
            suspects.insert(name, belief.mark);
        }
        if let Some(mark) = self.link.overlooked().filter(|_| !self.link_has_more && !self.link_takes) {
            let name = (Token::only(Kind::Ring), false);
            if self.watchdog.suspects.get(&name) == Some(&mark) {
                give_alarm("rings have had something for a while");
            }
            suspects.insert(name, mark);
        }
        self.watchdog.suspects = suspects;
    }

    fn beliefs(&self) -> Vec<Belief> {
        let mut all = Vec::new();
        self.tcp.beliefs(&mut all);
        self.udp.beliefs(&mut all);
        self.icmp.beliefs(&mut all);
        self.splice.iter().for_each(|s| s.beliefs(&mut all));
        self.ports.beliefs(&mut all);
        if let Link::Vhost(_) | Link::Card(_) = self.link {
            return all;
        }
        let believe = |(n, fd), awaited, mark| Belief { token: Token::new(Kind::Link, n as u32, 0), fd, awaited, mark };
        for fd in self.link.fds().into_iter().enumerate() {
            if !self.link_has_more && !self.link.is_stuck() {
                all.push(believe(fd, Awaited::Arrival, self.watchdog.passes));
            }
            if self.link.room() == Room::Full && !self.link_takes && !self.link.is_stuck() {
                all.push(believe(fd, Awaited::Room, self.link.sent().0));
            }
        }
        all
    }

    fn flow_count(&self) -> usize {
        self.tcp.len() + self.udp.len() + self.icmp.len() + self.splice.as_ref().map_or(0, crate::splice::Splice::len)
    }
}

fn is_wrong(belief: &Belief, answer: &Asked) -> bool {
    match belief.awaited {
        Awaited::Arrival | Awaited::Room => answer.is_ready(),
        Awaited::Bytes { seen, end } => {
            let more = || readiness::queued(belief.fd).is_ok_and(|n| n > seen);
            answer.is_ready() && (answer.has_ended() && !end || more())
        }
    }
}

fn give_alarm(fault: &str) -> ! {
    log::error!("watchdog: {fault}");
    panic!("watchdog: {fault}");
}
