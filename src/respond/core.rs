//! What becomes of each frame: the facts are given, frames to be sent come out. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use super::announced::Announced;
use super::frames::{self, Frame, Question};
use super::limit::Limits;
use super::links::{Link, Links};
use super::reason::{Counters, Event, Reason};
use super::rules::{Method, Patience, Rules, Ruling};
use super::sessions::{Due, Key, Sessions, Step};
use crate::base::{Addr, Instant, Mac};

/// A link whose questions are answered.
#[derive(Clone, Debug)]
pub struct Uplink {
    pub name: String,
    pub rules: Rules,
    pub patience: Patience,
    /// Say that who is answered for is a router.
    pub router: bool,
}

/// What does not change while we run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub uplinks: Vec<Uplink>,
    /// Names of links behind, by the numbers of [`Method::Via`].
    pub behind: Vec<String>,
    /// Questions of one source a second.
    pub rate: u32,
    /// Solicit the routers from each address that is known, as often as this.
    pub to_router: Option<Duration>,
}

/// Where a target is, as the kernel would send to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Nowhere,
    /// Through the link with this index. `on_link`: the target itself is there, if it exists at all; else a router there, or
    /// a route to this very address, says that it does.
    Through {
        index: u32,
        on_link: bool,
    },
}

/// The kernel's routes.
pub trait Routes {
    fn way(&mut self, target: &Addr) -> Way;
}

/// A frame for the link with this index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub index: u32,
    pub v4: bool,
    pub frame: Frame,
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

/// What one station behind may tell in a second without having been asked; twice that after a while of silence.
const UNASKED_A_SECOND: u32 = 100;

pub struct Responder {
    settings: Settings,
    links: Links,
    /// Index and MAC of each uplink, while it is there.
    uplinks: Vec<Option<(u32, Mac)>>,
    /// Index of each link behind.
    behind: Vec<Option<u32>>,
    sessions: Sessions,
    limits: Limits,
    /// Of stations behind that nobody has asked.
    limits_behind: Limits,
    /// Of container networks.
    containers: BTreeSet<Addr>,
    announced: Announced,
    announce_at: Option<Instant>,
    pub counters: Counters,
}

impl Responder {
    pub fn new(settings: Settings) -> Responder {
        Responder {
            limits: Limits::new(settings.rate),
            limits_behind: Limits::new(settings.rate.min(UNASKED_A_SECOND)),
            links: Links::default(),
            uplinks: vec![None; settings.uplinks.len()],
            behind: vec![None; settings.behind.len()],
            sessions: Sessions::default(),
            containers: BTreeSet::new(),
            announced: Announced::default(),
            announce_at: None,
            counters: Counters::default(),
            settings,
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn uplink_index(&self, number: usize) -> Option<u32> {
        self.uplinks[number].map(|(index, _)| index)
    }

    pub fn behind_index(&self, number: usize) -> Option<u32> {
        self.behind[number]
    }

    /// Targets that were asked for behind, and what is known of them.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub fn containers(&self) -> usize {
        self.containers.len()
    }

    /// The kernel's links and addresses have changed, or are known now.
    pub fn set_links(&mut self, links: Links) {
        let place = |u: &Uplink| links.named(&u.name).ok().and_then(|l| Some((l.index, l.mac?)));
        self.uplinks = self.settings.uplinks.iter().map(place).collect();
        self.behind = self.settings.behind.iter().map(|n| links.named(n).ok().map(|l| l.index)).collect();
        self.sessions.forget_links(|index| links.get(index).is_some());
        self.links = links;
    }

    /// Tells routers of what is known from the start.
    pub fn begin(&mut self, now: Instant, out: &mut Vec<Outgoing>) {
        if self.settings.to_router.is_none() {
            return;
        }
        let fixed = self.settings.uplinks.iter().enumerate();
        let fixed = fixed.flat_map(|(uplink, u)| u.rules.fixed().map(move |target| Key { uplink, target }));
        for key in fixed.collect::<Vec<_>>() {
            self.appeared(key, None, out);
        }
        self.announce_at = Some(now);
        self.due(now, out);
    }

    /// The addresses that containers have now.
    pub fn set_containers(&mut self, now_there: BTreeSet<Addr>, out: &mut Vec<Outgoing>) {
        let before = std::mem::replace(&mut self.containers, now_there);
        let news: Vec<Addr> = self.containers.difference(&before).copied().collect();
        for uplink in 0..self.settings.uplinks.len() {
            let serves = |rules: &Rules, a: &Addr| rules.ruling(a) == Ruling::By(Method::Containers);
            for target in &news {
                if serves(&self.settings.uplinks[uplink].rules, target) {
                    self.appeared(Key { uplink, target: *target }, None, out);
                }
            }
            for target in before.difference(&self.containers) {
                self.announced.remove(&Key { uplink, target: *target });
            }
        }
    }

    /// A frame that came from an uplink; `v4`: through the socket for ARP.
    pub fn heard(
        &mut self,
        uplink: usize,
        (bytes, len): (&[u8], usize),
        v4: bool,
        now: Instant,
        routes: &mut dyn Routes,
        out: &mut Vec<Outgoing>,
    ) {
        self.counters.count(Event::Heard);
        let question = if v4 { frames::arp_request(bytes, len) } else { frames::solicitation(bytes, len) };
        let done = question.and_then(|question| self.decide(uplink, &question, now, routes, out));
        match done {
            Ok(event) => self.counters.count(event),
            Err(reason) => self.counters.drop(reason),
        }
    }

    /// A frame that came from behind, by the link with this index.
    pub fn heard_behind(
        &mut self,
        index: u32,
        (bytes, len): (&[u8], usize),
        v4: bool,
        now: Instant,
        out: &mut Vec<Outgoing>,
    ) {
        let (target, station) = match if v4 { frames::arp_reply(bytes, len) } else { frames::advertisement(bytes, len) }
        {
            Ok(told) => told,
            Err(reason) => return self.counters.drop(reason),
        };
        for uplink in 0..self.settings.uplinks.len() {
            let key = Key { uplink, target };
            let wanted = match self.settings.uplinks[uplink].rules.ruling(&target) {
                Ruling::By(Method::Via(number)) => self.behind[number] == Some(index),
                Ruling::By(Method::Auto) => self.sessions.is_expected(&key, index),
                _ => false,
            };
            if wanted && !self.links.is_own(&target) {
                match self.told(key, index, station, now, out) {
                    Ok(event) => self.counters.count(event),
                    Err(reason) => self.counters.drop(reason),
                }
            }
        }
    }

    /// A station behind says that it has the target. Nobody may have asked; then it counts as far as there is room for that, so
    /// that no station takes it from those who are asked for.
    fn told(
        &mut self,
        key: Key,
        behind: u32,
        station: Mac,
        now: Instant,
        out: &mut Vec<Outgoing>,
    ) -> Result<Event, Reason> {
        let by = Some(station).filter(|_| !self.sessions.is_wanted(&key));
        if by.is_some_and(|station| !self.limits_behind.allow(station, now)) {
            return Err(Reason::RateLimited);
        }
        self.found(key, behind, by, now, out).map(|()| Event::Found)
    }

    /// Does what time has come for.
    pub fn due(&mut self, now: Instant, out: &mut Vec<Outgoing>) {
        let uplinks = &self.settings.uplinks;
        while let Some(due) = self.sessions.next_due(now, |key| uplinks[key.uplink].patience) {
            match due {
                Due::Ask(key, behind) => out.extend(ask(&self.links, behind, &key.target, &mut self.counters)),
                Due::Gone(key, _, waited) => {
                    (0..waited).for_each(|_| self.counters.drop(Reason::Absent));
                    self.announced.remove(&key);
                }
            }
        }
        if let (Some(at), Some(interval)) = (self.announce_at, self.settings.to_router)
            && at <= now
        {
            self.announce_again(out);
            self.announce_at = Some(now + interval);
        }
    }

    /// When [`Responder::due`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.sessions.deadline().into_iter().chain(self.announce_at).min()
    }

    fn decide(
        &mut self,
        uplink: usize,
        question: &Question,
        now: Instant,
        routes: &mut dyn Routes,
        out: &mut Vec<Outgoing>,
    ) -> Result<Event, Reason> {
        let (index, mac) = self.uplinks[uplink].ok_or(Reason::NotServed)?;
        let key = Key { uplink, target: question.target };
        if question.source_mac == mac {
            return Err(Reason::SourceMac);
        }
        if self.links.is_own(&question.source) || self.is_behind(Key { target: question.source, ..key }, now) {
            return Err(Reason::SpoofedSource);
        }
        if !self.limits.allow(question.source_mac, now) {
            return Err(Reason::RateLimited);
        }
        if question.target == question.source {
            return Err(Reason::AskersOwn);
        }
        let is_router = |link: &Link| link.routers.contains(&question.target);
        if self.links.is_own(&question.target) || self.links.get(index).is_some_and(is_router) {
            return Err(Reason::OwnAddress);
        }
        match self.settings.uplinks[uplink].rules.ruling(&question.target) {
            Ruling::Excluded => Err(Reason::Excluded),
            Ruling::NotServed => Err(Reason::NotServed),
            Ruling::By(Method::Static) => Ok(self.answer(uplink, question, out)),
            Ruling::By(Method::Containers) if self.containers.contains(&question.target) => {
                Ok(self.answer(uplink, question, out))
            }
            Ruling::By(Method::Containers) => Err(Reason::Absent),
            Ruling::By(Method::Via(number)) => {
                let way = self.behind[number].map_or(Way::Nowhere, |index| Way::Through { index, on_link: true });
                self.seek(key, question, now, || way, out)
            }
            Ruling::By(Method::Auto) => self.seek(key, question, now, || routes.way(&question.target), out),
        }
    }

    /// Answers for what has been found, and asks for the rest where `way` leads.
    fn seek(
        &mut self,
        key: Key,
        question: &Question,
        now: Instant,
        way: impl FnOnce() -> Way,
        out: &mut Vec<Outgoing>,
    ) -> Result<Event, Reason> {
        let patience = self.settings.uplinks[key.uplink].patience;
        let step = match self.sessions.step(&key, now) {
            // The way was looked at when it was asked for first.
            Some(Step::Wait) => self.sessions.ask(key, *question, 0, &patience, now),
            Some(step) => {
                self.sessions.asked(&key);
                self.announced.asked(&key);
                step
            }
            None => match way() {
                Way::Nowhere => return Err(Reason::NoRoute),
                Way::Through { index, .. } if self.uplinks[key.uplink].is_some_and(|(i, _)| i == index) => {
                    return Err(Reason::NoRoute);
                }
                Way::Through { index, on_link: true } => self.sessions.ask(key, *question, index, &patience, now),
                Way::Through { index, on_link: false } => {
                    // Without room the route is looked at again.
                    let _ = self.found(key, index, None, now, out);
                    Step::Answer
                }
            },
        };
        match step {
            Step::Answer => Ok(self.answer(key.uplink, question, out)),
            Step::Wait => Ok(Event::Waited),
            Step::Absent => Err(Reason::Absent),
            Step::Full => Err(Reason::Full),
            Step::Ask(behind) => {
                out.extend(ask(&self.links, behind, &key.target, &mut self.counters));
                Ok(Event::Waited)
            }
        }
    }

    /// `by`: who has told of it, if nobody has asked.
    fn found(
        &mut self,
        key: Key,
        behind: u32,
        by: Option<Mac>,
        now: Instant,
        out: &mut Vec<Outgoing>,
    ) -> Result<(), Reason> {
        let patience = self.settings.uplinks[key.uplink].patience;
        let (waiting, news) = self.sessions.found(key, behind, by, &patience, now).ok_or(Reason::Full)?;
        for question in waiting {
            let event = self.answer(key.uplink, &question, out);
            self.counters.count(event);
        }
        if news && self.settings.to_router.is_some() {
            // Those that have not been heard of for a while make room for it.
            if by.is_some_and(|station| !self.announced.has_room(station)) {
                let sessions = &self.sessions;
                self.announced.keep_unasked(|key| sessions.step(key, now) == Some(Step::Answer));
            }
            self.appeared(key, by, out);
        }
        Ok(())
    }

    fn answer(&self, uplink: usize, question: &Question, out: &mut Vec<Outgoing>) -> Event {
        if let Some((index, mac)) = self.uplinks[uplink] {
            let frame = frames::answer(question, mac, self.settings.uplinks[uplink].router);
            out.push(Outgoing { index, v4: question.target.is_v4(), frame });
        }
        Event::Answered
    }

    /// Nobody outside can have it.
    fn is_behind(&self, key: Key, now: Instant) -> bool {
        self.sessions.step(&key, now) == Some(Step::Answer) || self.containers.contains(&key.target)
    }

    /// An address is there that was not: neighbours hear of it, and if wanted the routers are asked from it. `by`: who has told
    /// of it, if nobody has asked.
    fn appeared(&mut self, key: Key, by: Option<Mac>, out: &mut Vec<Outgoing>) {
        let Some((index, mac)) = self.uplinks[key.uplink] else { return };
        if self.links.is_own(&key.target) {
            return;
        }
        let frame = frames::announcement(&key.target, mac, self.settings.uplinks[key.uplink].router, false);
        out.push(Outgoing { index, v4: key.target.is_v4(), frame });
        self.counters.count(Event::Announced);
        if self.settings.to_router.is_some() {
            self.solicit_routers(index, mac, &key.target, out);
            self.announced.add(key, by);
        }
    }

    /// Routers that learn only from what a host sends learn that `from` is at our MAC: a solicitation carries both (RFC 4861
    /// §7.2.3), as does an ARP request.
    fn solicit_routers(&mut self, index: u32, mac: Mac, from: &Addr, out: &mut Vec<Outgoing>) {
        let routers = self.links.get(index).map_or(&[][..], |link| &link.routers);
        for router in routers.iter().filter(|r| r.is_v4() == from.is_v4()) {
            out.push(Outgoing { index, v4: from.is_v4(), frame: frames::ask(from, router, mac) });
            self.counters.count(Event::Announced);
        }
    }

    /// For all that have been told of, and for this host's own addresses that the world knows: a router that forgets them
    /// forgets the way to all of us.
    fn announce_again(&mut self, out: &mut Vec<Outgoing>) {
        for key in self.announced.keys().collect::<Vec<_>>() {
            if let Some((index, mac)) = self.uplinks[key.uplink] {
                self.solicit_routers(index, mac, &key.target, out);
            }
        }
        for (uplink, place) in self.uplinks.clone().into_iter().enumerate() {
            let Some((index, mac)) = place else { continue };
            let rules = &self.settings.uplinks[uplink].rules;
            let tells = |a: &&Addr| !a.is_link_local() && rules.has_family(a.is_v4());
            let link = self.links.get(index);
            let own: Vec<Addr> = link.iter().flat_map(|l| &l.addresses).filter(tells).copied().collect();
            own.iter().for_each(|from| self.solicit_routers(index, mac, from, out));
        }
    }
}

/// Asks behind. A link without an address to ask from cannot be asked; an ARP probe needs none (RFC 5227 §1.1).
fn ask(links: &Links, behind: u32, target: &Addr, counters: &mut Counters) -> Option<Outgoing> {
    let link = links.get(behind)?;
    let v4 = target.is_v4();
    let source = link.asks_from(v4).or(v4.then_some(Addr::V4_UNSPECIFIED))?;
    counters.count(Event::Asked);
    Some(Outgoing { index: behind, v4, frame: frames::ask(&source, target, link.mac?) })
}

#[cfg(test)]
mod tests;
