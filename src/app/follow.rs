//! The host's network has changed: all is planned again as at start, and what is different takes effect, without a word where
//! nothing is. Flows that exist keep their sockets and names; what cannot live on fails by itself, as it would on the host.
//!
//! While the host has no network at all, the guest keeps what it has: there is nothing better to tell it, and most often the
//! same network comes back.

mod words;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mio::Interest;

use super::crew::{Leading, Message};
use super::engine::Engine;
use super::plan::{Plan, plan};
use super::summary::{Rules, summary};
use super::teamwork::COUNTING;
use crate::base::{Addr, Family, Instant, Kind, Mac, PerFamily, Prefix, Token};
use crate::config::Config;
use crate::fwd::{Former, Nat};
use crate::guest::Facts;
use crate::host::{self, Follower, Network, Reader};
use crate::logging::Summary;
use crate::ns::upkeep::{Answer, Wanted};
use crate::ns::{Interface, Upkeep};
use crate::sys::watch;

/// What it takes to plan again, and what was planned last.
pub struct Following {
    host: Follower,
    config: Config,
    network: Network,
    plan: Plan,
    seed: u64,
    shown: Shown,
    /// When the guest's packets were led elsewhere for the last time.
    changed: Instant,
    /// Who tells what resolv.conf says, if somebody does.
    reader: Option<Reader>,
    /// How to change the guest's interface, if that is ours to configure ...
    upkeep: Option<Upkeep>,
    /// ... and what it has, or will have in a moment.
    inside: Wanted,
    /// Changes inside that failed since one succeeded, or since something new was wanted.
    failures: u32,
    /// A timer runs to look at what is inside: former addresses that can go, a change to try again.
    lingers: bool,
}

/// The effective configuration, for the control thread as well.
#[derive(Clone, Debug)]
pub struct Shown(Arc<Mutex<Summary>>);

impl Shown {
    pub fn new(summary: &Summary) -> Shown {
        Shown(Arc::new(Mutex::new(summary.clone())))
    }

    pub fn json(&self) -> String {
        self.summary().json(env!("CARGO_PKG_VERSION"), Some(std::process::id()))
    }

    fn summary(&self) -> MutexGuard<'_, Summary> {
        // Whoever panics holding it ends the process.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To be called before the host is read. `None`: it is not to be followed, or cannot be.
pub(super) fn open(config: &Config, select: &host::Select) -> Option<Follower> {
    if !config.follows() {
        return None;
    }
    let opened = Follower::open(select.clone());
    opened.inspect_err(|e| log::warn!("changes of the host's network will not be followed: {e}")).ok()
}

/// Without them the guest sees our MAC everywhere, and misses nothing else.
pub(super) fn neighbours(network: &Network) -> Option<host::Neighbours> {
    let opened = host::Neighbours::open(templates(network));
    opened.inspect_err(|e| log::debug!("cannot follow the host's neighbour table: {e}")).ok()
}

/// Indexes of the interfaces, 0 for none.
fn templates(network: &Network) -> PerFamily<u32> {
    let index = |f: Family| network.families[f].as_ref().and_then(|t| t.interface.as_ref()).map_or(0, |i| i.index);
    PerFamily::new(index(Family::V4), index(Family::V6))
}

impl Following {
    pub(super) fn new(host: Follower, config: &Config, began: Beginning<'_>, shown: &Shown) -> Following {
        let Beginning { network, plan, seed } = began;
        // An interface that is there keeps its name.
        let config = Config { ns_ifname: Some(plan.interface.name.clone()), ..config.clone() };
        let (network, plan, shown) = (network.clone(), plan.clone(), shown.clone());
        let inside = wanted(&plan, Vec::new());
        Following {
            host,
            config,
            network,
            plan,
            seed,
            shown,
            changed: Instant::ZERO,
            reader: None,
            upkeep: None,
            inside,
            failures: 0,
            lingers: false,
        }
    }

    /// How the guest's interface is changed, if so.
    pub(super) fn keep_up(&mut self, upkeep: Option<Upkeep>) {
        self.upkeep = upkeep;
    }

    /// Has resolv.conf followed as well. To be called while this process has one thread.
    pub(super) fn read_names<E>(&mut self, confine: impl FnOnce(&[PathBuf]) -> Result<(), E>) {
        let started = Reader::start(confine);
        self.reader = started.inspect_err(|e| log::warn!("changes of resolv.conf will not be followed: {e}")).ok();
    }

    /// Reads the host, and returns the plan until now if there is another.
    fn read_again(&mut self) -> Result<Option<Plan>, host::Error> {
        match self.host.read(&self.network.resolv) {
            Ok(network) => self.network = better_of(&self.network, network),
            // It may come back.
            Err(host::Error::NoInterface(_)) => {}
            Err(e) => return Err(e),
        }
        Ok(self.plan_again())
    }

    /// The plan until now, if there is another for what the host has.
    fn plan_again(&mut self) -> Option<Plan> {
        let plan = plan(&self.config, &self.network, self.seed);
        if plan == self.plan {
            return None;
        }
        let new = summary(&self.config, &self.network, &plan, Rules::default());
        let mut shown = self.shown.summary();
        let Summary { socket, inbound, outbound, .. } = std::mem::take(&mut *shown);
        *shown = Summary { socket, inbound, outbound, ..new };
        drop(shown);
        Some(std::mem::replace(&mut self.plan, plan))
    }
}

impl AsRawFd for Following {
    fn as_raw_fd(&self) -> RawFd {
        self.host.as_raw_fd()
    }
}

/// What was decided at start.
pub(super) struct Beginning<'a> {
    pub network: &'a Network,
    pub plan: &'a Plan,
    pub seed: u64,
}

impl Engine {
    pub(super) fn register_followed(&self) -> io::Result<()> {
        let Some(following) = &self.following else { return Ok(()) };
        let reader = following.reader.as_ref().map(|reader| (reader.as_raw_fd(), NAMES));
        let upkeep = following.upkeep.as_ref().map(|upkeep| (upkeep.as_raw_fd(), UPKEEP));
        for (fd, token) in reader.into_iter().chain(upkeep) {
            watch::add(self.poll.registry(), fd, mio::Token(token.to_usize()), Interest::READABLE)?;
        }
        Ok(())
    }

    /// All else is up.
    pub(super) fn begin_following(&self) {
        self.following.iter().filter_map(|f| f.reader.as_ref()).for_each(Reader::begin);
    }

    /// There are news about the host's network, or what is changed inside has been changed.
    pub(super) fn follow_event(&mut self, token: Token, now: Instant) {
        match token {
            UPKEEP => return self.hear_upkeep(now),
            NAMES => return self.names_changed(now),
            _ => {}
        }
        if let Some(at) = self.following.as_mut().and_then(|f| f.host.from_host(now)) {
            self.timers.arm(at, Token::only(Kind::Follow));
        }
    }

    pub(super) fn follow_timer(&mut self, token: Token, now: Instant) {
        match token {
            FORGET => return self.forget_former(now),
            UPKEEP => {
                self.following.iter_mut().for_each(|f| f.lingers = false);
                return self.settle_inside(now);
            }
            _ => {}
        }
        let Some(following) = &mut self.following else { return };
        match following.host.look(now) {
            host::Look::Never => {}
            host::Look::At(at) => self.timers.arm(at, Token::only(Kind::Follow)),
            host::Look::Now => self.read_again(now),
        }
    }

    fn names_changed(&mut self, now: Instant) {
        let Some(following) = &mut self.following else { return };
        match following.reader.as_ref().map(Reader::news) {
            Some(Ok(Some(resolv))) if resolv != following.network.resolv => {
                following.network.resolv = resolv;
                if let Some(old) = following.plan_again() {
                    self.take_over(&old, now);
                }
            }
            Some(Err(e)) => {
                log::warn!("changes of resolv.conf are not followed any more: {e}");
                following.reader = None;
            }
            _ => {}
        }
    }

    fn read_again(&mut self, now: Instant) {
        let Some(following) = &mut self.following else { return };
        let began = self.clock.now();
        let planned = following.read_again();
        let again = following.host.has_read(began, self.clock.now(), planned.is_err());
        if let Some(at) = again {
            self.timers.arm(at, Token::only(Kind::Follow));
        }
        match planned {
            Ok(None) => {}
            Ok(Some(old)) => self.take_over(&old, now),
            Err(e) => log::warn!("{e}; what has changed there is read again in a second"),
        }
    }

    /// The plan is another now.
    fn take_over(&mut self, old: &Plan, now: Instant) {
        let Some(following) = &mut self.following else { return };
        let (plan, template) = (following.plan.clone(), templates(&following.network));
        let (silent, configured) = (self.l2.guest_mac == Mac::BROADCAST, following.upkeep.is_some());
        words::differences(old, &plan).iter().for_each(|line| log::info!("{line}"));
        let before = PerFamily::new(self.l2.guest_v4, self.l2.guest_v6);
        let nat = Nat { former: self.former(old, &plan, now), ..plan.nat.clone() };
        for (slot, f) in [(&mut self.l2.guest_v4, Family::V4), (&mut self.l2.guest_v6, Family::V6)] {
            // One that has shown itself is where it is, until it shows something else; or we change it.
            if before[f].is_none() || silent || configured {
                *slot = plan.nat.assigned[f];
            }
        }
        self.lead_as(Leading { nat, outbound: plan.outbound.clone() });
        self.see_neighbours_again(template, now);
        self.tell_where();
        self.settle_inside(now);
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        self.gateway.change(plan.gateway, &facts, &mut self.link);
        self.arm_gateway();
    }

    /// Has the guest's interface changed to what is planned. Addresses of before stay as long as flows have them.
    fn settle_inside(&mut self, now: Instant) {
        let Some(following) = self.following.as_ref().filter(|f| f.upkeep.is_some()) else { return };
        let new = &following.plan.interface.addrs;
        let before = following.inside.addrs.iter().chain(&following.inside.former);
        let former: Vec<Prefix> = before.filter(|p| !new.contains(p)).copied().collect();
        let used = self.uses(former.iter().map(|p| p.addr).collect(), now);
        let (former, gone): (Vec<_>, Vec<_>) = former.into_iter().partition(|p| used.contains(&p.addr));
        let Some(following) = &mut self.following else { return };
        // The last packet may have come from one that goes now, and a server says nothing until it is asked.
        for (slot, f) in [(&mut self.l2.guest_v4, Family::V4), (&mut self.l2.guest_v6, Family::V6)] {
            if slot.is_some_and(|a| gone.iter().any(|p| p.addr == a)) {
                *slot = following.plan.nat.assigned[f];
            }
        }
        let wanted = wanted(&following.plan, former);
        let is_new = wanted != following.inside;
        if is_new {
            following.failures = 0;
        }
        let again = following.failures > 0 && following.failures < TRIES;
        if !wanted.former.is_empty() && !std::mem::replace(&mut following.lingers, true) {
            self.timers.arm(now + LINGER, UPKEEP);
        }
        if !is_new && !again {
            return;
        }
        following.inside = wanted.clone();
        if following.upkeep.as_mut().is_some_and(|upkeep| upkeep.want(wanted).is_err()) {
            self.lose_upkeep();
        }
    }

    fn hear_upkeep(&mut self, now: Instant) {
        while let Some((following, answer)) = self.following.as_mut().and_then(|f| {
            let answer = f.upkeep.as_mut()?.answer()?;
            Some((f, answer))
        }) {
            match answer {
                Answer::Done => {
                    following.failures = 0;
                    log::info!("the guest's interface has been changed");
                }
                Answer::Failed(text) => {
                    following.failures += 1;
                    let then = if following.failures < TRIES { "; it is tried again" } else { "" };
                    log::warn!("the guest's interface could be changed in part only: {text}{then}");
                    if !then.is_empty() && !std::mem::replace(&mut following.lingers, true) {
                        self.timers.arm(now + LINGER, UPKEEP);
                    }
                }
                Answer::Gone => self.lose_upkeep(),
            }
        }
    }

    fn lose_upkeep(&mut self) {
        if self.following.as_mut().is_some_and(|f| f.upkeep.take().is_some()) {
            log::warn!("what could change the guest's interface is gone: it stays as it is until the next start");
        }
    }

    /// Which of these addresses of the guest have flows.
    fn uses(&self, addrs: Vec<Addr>, now: Instant) -> Vec<Addr> {
        let mut used = if addrs.is_empty() { Vec::new() } else { self.own_uses(&addrs, now) };
        let Some(crew) = self.crew.as_ref().filter(|_| used.len() < addrs.len()) else { return used };
        let (sender, others) = channel();
        crew.others().for_each(|worker| crew.send(worker, Message::Uses(addrs.clone(), sender.clone())));
        drop(sender);
        for _ in crew.others() {
            // Whoever does not answer may have some.
            used.extend(others.recv_timeout(COUNTING).unwrap_or_else(|_| addrs.clone()));
        }
        used
    }

    /// The same of this worker's.
    pub(super) fn own_uses(&self, addrs: &[Addr], now: Instant) -> Vec<Addr> {
        let splice = self.splice.iter().flat_map(|splice| splice.views(now));
        let views = self.tcp.views(now).chain(self.udp.views(now)).chain(self.icmp.views(now)).chain(splice);
        let mut used = Vec::new();
        for view in views.map(|sight| sight.with_ends(false).view) {
            // A spliced flow has the guest's address at either end.
            for addr in [view.guest.addr, view.remote.addr] {
                if addrs.contains(&addr) && !used.contains(&addr) {
                    used.push(addr);
                }
            }
            if used.len() == addrs.len() {
                break;
            }
        }
        used
    }

    /// What leads on for a guest that has to renew its leases first, and for programs that have not looked again.
    fn former(&mut self, old: &Plan, new: &Plan, now: Instant) -> Vec<Former> {
        let mut all = std::mem::take(&mut self.nat.former);
        // Which further addresses are shared leads nowhere.
        let rules = |plan: &Plan| Nat { shared: Vec::new(), ..plan.nat.clone() };
        if rules(old) != rules(new) {
            let latest = Former {
                map_host_loopback: old.nat.map_host_loopback,
                dns_forward: old.nat.dns_forward,
                dns_host: PerFamily::default(),
                assigned: old.nat.assigned,
            };
            // A network that comes and goes is one.
            all.retain(|n| !n.is_within(&latest));
            all.insert(0, latest);
            all.truncate(FORMER_MAX);
            self.following.iter_mut().for_each(|f| f.changed = now);
            self.timers.arm(now + LEASE, FORGET);
        }
        as_of(all, new)
    }

    /// Leases that were given before the last change have ended.
    fn forget_former(&mut self, now: Instant) {
        let Some(following) = &self.following else { return };
        if following.changed + LEASE > now || self.nat.former.is_empty() {
            return;
        }
        let outbound = following.plan.outbound.clone();
        self.lead_as(Leading { nat: Nat { former: Vec::new(), ..self.nat.clone() }, outbound });
        self.tell_where();
    }

    /// New flows go where these say.
    pub(super) fn lead_as(&mut self, leading: Leading) {
        let Leading { nat, outbound } = leading;
        self.nat = nat;
        self.tcp.set_outbound(outbound.clone());
        self.udp.set_outbound(outbound.clone());
        self.icmp.set_outbound(outbound);
    }

    /// Other addresses are translated now, and another link's stations come first.
    fn see_neighbours_again(&mut self, template: PerFamily<u32>, now: Instant) {
        let Some(neighbours) = &mut self.neighbours else { return };
        self.neighbours_new = true;
        neighbours.prefer(template, &mut |addr, mac| {
            self.gateway.neighbour(addr, mac, now, (&mut self.l2, &self.nat), &mut self.link);
        });
        for (addr, mac) in neighbours.known() {
            if self.nat.is_taken(&addr) {
                self.l2.neighbours.set(addr, None);
            } else {
                self.gateway.neighbour(addr, Some(mac), now, (&mut self.l2, &self.nat), &mut self.link);
            }
        }
    }

    fn tell_where(&self) {
        let (Some(crew), Some(following)) = (&self.crew, &self.following) else { return };
        let leading = Leading { nat: self.nat.clone(), outbound: following.plan.outbound.clone() };
        crew.others().for_each(|worker| crew.send(worker, Message::Network(Box::new(leading.clone()))));
    }
}

/// Former rules under this plan.
fn as_of(mut all: Vec<Former>, new: &Plan) -> Vec<Former> {
    let servers = &new.gateway.dns;
    let first = |f: Family| new.nat.dns_host[f].or(servers.iter().copied().find(|a| !new.nat.dns_forward.is(a)));
    // A name server of now is meant itself, whoever had its address before ...
    let still = |addr: Option<Addr>| addr.filter(|a| !servers.contains(a));
    // ... and so is any other station of the link of now. A name server of before that has become one is led elsewhere all the
    // same: by port 53 alone, which a guest that has not renewed its lease has nobody else for.
    let assigned = &new.gateway.assigned;
    let on_link = |a: &Addr| assigned[a.family()].is_some_and(|(own, len)| Prefix::new(own, len).contains(a));
    let elsewhere = |addr: Option<Addr>| still(addr).filter(|a| !on_link(a));
    for n in &mut all {
        n.dns_host = PerFamily::new(first(Family::V4), first(Family::V6));
        n.map_host_loopback = PerFamily::new(elsewhere(n.map_host_loopback.v4), elsewhere(n.map_host_loopback.v6));
        n.dns_forward = PerFamily::new(still(n.dns_forward.v4), still(n.dns_forward.v6));
    }
    all
}

/// What the guest's namespace is to have after this plan.
fn wanted(plan: &Plan, former: Vec<Prefix>) -> Wanted {
    let Interface { addrs, routes, .. } = &plan.interface;
    let (addrs, routes) = (addrs.clone(), routes.clone());
    Wanted { addrs, former, routes, resolv_conf: Some(plan.names.clone()) }
}

/// The new one, unless that is none at all.
fn better_of(old: &Network, new: Network) -> Network {
    let is_connected = |n: &Network| [&n.families.v4, &n.families.v6].into_iter().flatten().any(|t| !t.is_local());
    if is_connected(&new) || !is_connected(old) { new } else { Network { resolv: new.resolv, ..old.clone() } }
}

/// The event of whoever changes the interface inside, and the time to look whether former addresses can go.
const UPKEEP: Token = Token { kind: Kind::Follow, generation: 0, index: 2 };
/// The event of who reads resolv.conf.
const NAMES: Token = Token { kind: Kind::Follow, generation: 0, index: 3 };
/// Between such looks, while there are former addresses or something to try again.
const LINGER: Duration = Duration::from_secs(30);
/// Of a change inside that fails: what nobody mends in a minute or two stays as it is until the next change.
const TRIES: u32 = 4;
/// The event for [`Engine::forget_former`].
const FORGET: Token = Token { kind: Kind::Follow, generation: 0, index: 1 };
/// As long as the longest lease of the gateway's.
const LEASE: Duration = Duration::from_secs(3600);
/// Changes within that time whose addresses lead on.
const FORMER_MAX: usize = 4;

#[cfg(test)]
mod tests;
