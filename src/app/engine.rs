//! The event loop: poll, one reading of the clock, one call an event, due timers, run queue, one flush.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry};

use super::crew::{Crew, Seat, Seen};
use super::desk::Desk;
use super::follow::Following;
use super::links::hand_back;
use super::ports::{Forwarding, Ports};
use super::share::Flows;
use super::watchdog::Watchdog;
use super::workers::Workers;
use crate::base::{Clock, Counters, Instant, Kind, Mac, Token};
use crate::control::slirp4netns::Api;
use crate::flow::{KeySecret, Pending, Wheel};
use crate::fwd::{Local, Nat, Outbound};
use crate::gateway::{self, Gateway};
use crate::guest::reassembly::Reassembly;
use crate::guest::{Facts, L2, Room, ToGuest};
use crate::host;
use crate::icmp::{self, Icmp};
use crate::link::{Batch, Input, Link};
use crate::listen::Listener;
use crate::logging;
use crate::splice::{self, Splice};
use crate::tcp::Tcp;
use crate::udp::{self, Udp};
use crate::wire::{PROTO_TCP, PROTO_UDP};

/// What a running engine is made of.
pub struct Parts {
    pub link: Link,
    pub common: Common,
    /// Bound at start, for forwards of `forwarding`.
    pub listeners: Vec<Listener>,
    pub forwarding: Forwarding,
    /// The way past the link; `None`: there is no way to make sockets in the guest's namespace.
    pub local: Option<Local>,
    /// The host's neighbour table, if it can be followed.
    pub neighbours: Option<host::Neighbours>,
    /// The host's network, if it is followed.
    pub following: Option<Following>,
}

/// What all workers have alike.
#[derive(Clone, Debug)]
pub struct Common {
    /// Flows that go from one to another take their times with them.
    pub clock: Clock,
    pub l2: L2,
    pub nat: Nat,
    pub outbound: Outbound,
    pub gateway: gateway::Config,
    pub protocols: Protocols,
    /// Descriptors that flows may take, all protocols and workers together.
    pub descriptors: usize,
    /// Lives of idle UDP flows: one exchange, more than one.
    pub udp_timeouts: (Duration, Duration),
}

/// What is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Protocols {
    pub tcp: bool,
    pub udp: bool,
    pub icmp: bool,
}

/// One worker: a loop, its queues of the guest's link, its flows. Everything it needs is owned by it.
pub struct Engine {
    pub(super) workers: Workers,
    pub(super) poll: Poll,
    /// `None`: there are no other workers.
    pub(super) crew: Option<Crew>,
    /// The others wait for the end.
    pub(super) stopping: bool,
    pub(super) clock: Clock,
    /// Adopted flows have sent something at this time: no turn is from before.
    pub(super) not_before: Instant,
    pub(super) batch: Batch,
    /// The link may hold more frames than the last pass took.
    pub(super) link_has_more: bool,
    /// How many ends the link has had: events of an earlier one are not those of this.
    pub(super) plugged_in: u32,
    /// We hear of room in the link.
    pub(super) link_watched: bool,
    /// The link became writable in this turn.
    pub(super) link_takes: bool,
    /// When to try again what nothing tells of.
    pub(super) stuck_until: Instant,
    pub(super) gateway: Gateway,
    /// When the wheel wakes the gateway next.
    pub(super) gateway_due: Instant,
    pub(super) protocols: Protocols,
    pub(super) tcp: Tcp,
    pub(super) udp: Udp,
    pub(super) icmp: Icmp,
    pub(super) splice: Option<Splice>,
    pub(super) local: Local,
    pub(super) reassembly: Reassembly,
    /// Frames of the guest, and those that went no further than the choice between the engines.
    pub(super) counters: Counters,
    /// What the link had counted that is there no more.
    pub(super) unplugged: Counters,
    pub(super) timers: Wheel,
    pub(super) l2: L2,
    pub(super) nat: Nat,
    /// The guest had no MAC that we knew, the last time we looked.
    pub(super) guest_unknown: bool,
    pub(super) neighbours: Option<host::Neighbours>,
    /// Other workers do not know all that we know of them.
    pub(super) neighbours_new: bool,
    pub(super) following: Option<Following>,
    pub(super) ports: Ports,
    pub(super) watchdog: Watchdog,
    pub(super) api: Option<Api>,
    /// Where the control thread's requests come; `None`: there is none.
    pub(super) desk: Option<Desk>,
    /// Descriptors for flows and, as long as those do not need them, for ports that follow the other side.
    pub(super) descriptors: usize,
    /// For which numbers of flows, ours and other workers', and of descriptors lent, they were last shared out.
    shared_for: (Flows, Flows, usize),
    pub(super) due: Vec<Token>,
    stats: Option<Stats>,
    /// The last field, so that it is closed last: until the kernel has taken an interface down (synchronize_net(), tens of
    /// milliseconds) the ports would still be bound, and a successor could not have them.
    pub(super) link: Link,
}

/// Statistics for the user, and what they said last.
struct Stats {
    period: Duration,
    told: Counters,
}

/// What the caller wants after one of its own events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Continue,
    /// Go on, and wake the caller with [`Kind::Quit`] after this long even without an event.
    WakeAfter(Duration),
    /// Leave [`Engine::run`].
    Stop,
}

/// Events of one poll: more wait for the next turn.
const EVENTS: usize = 256;

impl Engine {
    /// # Errors
    /// When the kernel has no descriptors or random bytes left for the start.
    pub fn new(parts: Parts, seat: Seat) -> io::Result<Engine> {
        let Seat { poll, crew, desk } = seat;
        let registry = poll.registry();
        let Flowing { tcp, udp, icmp, splice } = Flowing::new(&parts, registry, crew.as_ref())?;
        let Common { clock, l2, nat, gateway, protocols, descriptors, .. } = parts.common;
        let neighbours = parts.neighbours.as_ref().map(AsRawFd::as_raw_fd);
        let following = parts.following.as_ref().map(AsRawFd::as_raw_fd);
        let sources = [(parts.link.listener(), Kind::Plug), (neighbours, Kind::Neighbours), (following, Kind::Follow)];
        for (fd, kind) in sources {
            fd.map_or(Ok(()), |fd| registry.register(&mut SourceFd(&fd), only(kind), Interest::READABLE))?;
        }
        let mut engine = Engine {
            timers: Wheel::new(clock.now()),
            gateway: Gateway::new(gateway, clock.now()),
            protocols,
            tcp,
            udp,
            icmp,
            splice,
            local: parts.local.unwrap_or_default(),
            reassembly: Reassembly::default(),
            api: None,
            desk,
            workers: Workers::default(),
            poll,
            crew,
            stopping: false,
            clock,
            not_before: Instant::ZERO,
            unplugged: Counters::default(),
            link: parts.link,
            batch: Batch::new(),
            link_has_more: true,
            link_takes: false,
            stuck_until: Instant::FAR,
            plugged_in: 0,
            link_watched: false,
            gateway_due: Instant::FAR,
            counters: Counters::default(),
            guest_unknown: l2.guest_mac == Mac::BROADCAST,
            l2,
            nat,
            neighbours: parts.neighbours,
            neighbours_new: true,
            following: parts.following,
            ports: Ports::new(parts.forwarding),
            watchdog: Watchdog::default(),
            descriptors,
            shared_for: Default::default(),
            due: Vec::new(),
            stats: None,
        };
        if let Some(crew) = &mut engine.crew {
            crew.told = Some(Seen::of(&engine.l2));
            // Rings come later.
            crew.able = if let Link::Tap(_) = engine.link { crew.all() } else { 1 };
        }
        engine.register_link()?;
        engine.register_followed()?;
        parts.listeners.into_iter().try_for_each(|l| engine.open(l))?;
        Ok(engine)
    }

    /// For the caller's own sources: signals, the namespace's end.
    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Serves requests of other programs from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn serve_api(&mut self, api: Api) -> io::Result<()> {
        api.register(self.poll.registry())?;
        self.api = Some(api);
        Ok(())
    }

    /// Wakes the caller of [`Engine::run`] with [`Kind::Quit`] after `period`.
    pub fn wake_after(&mut self, period: Duration) {
        self.timers.arm(self.clock.now() + period, Token::only(Kind::Quit));
    }

    /// As if this much time had passed. For tests.
    pub fn skip_time(&mut self, time: Duration) {
        self.clock.skip(time);
    }

    /// Prints a line of statistics every `period` in which something happened.
    pub fn print_stats(&mut self, period: Duration) {
        self.stats = Some(Stats { period, told: Counters::default() });
        self.timers.arm(self.clock.now() + period, Token::only(Kind::Stats));
    }

    /// Runs until `on_event` says stop at one of the caller's own tokens ([`Kind::Signal`], [`Kind::Quit`]). May be called
    /// again, after [`Engine::start`].
    ///
    /// # Errors
    /// The link is gone, or polling failed.
    pub fn run(&mut self, mut on_event: impl FnMut(Token) -> Next) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.turn(&mut events, None, &mut on_event)? {}
        Ok(())
    }

    /// One turn of the loop, which waits for an event `limit` at most. True: it was the last.
    pub(super) fn turn(
        &mut self,
        events: &mut Events,
        limit: Option<Duration>,
        on_event: &mut impl FnMut(Token) -> Next,
    ) -> io::Result<bool> {
        let wait = [self.wait(), limit].into_iter().flatten().min();
        match self.poll.poll(events, wait) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(e) => return Err(e),
        }
        let now = self.clock.now();
        if self.crew.is_some() {
            // Others have made flows meanwhile.
            self.share_descriptors();
        }
        for event in &*events {
            let now = now.max(self.not_before);
            let Some(token) = Token::from_usize(event.token().0) else { continue };
            match token.kind {
                Kind::Link => self.link_event(token, event, now),
                Kind::Ring => self.ring_event(token),
                Kind::Plug => self.plugged(now)?,
                Kind::Crew => self.hear(now),
                Kind::Desk => self.attend(now),
                // After the traffic of this turn.
                Kind::Signal | Kind::Quit => self.due.push(token),
                _ => self.host_event(token, event.into(), now),
            }
        }
        let now = now.max(self.not_before);
        if self.link_has_more {
            let input = self.drain_link(now)?;
            self.link_has_more = input == Input::More;
            if input == Input::Gone {
                self.client_gone(now);
            }
        }
        if self.expire(now, on_event)? {
            return Ok(true);
        }
        self.finish_turn(now.max(self.not_before))?;
        Ok(self.stopping)
    }

    /// All is set up. A guest that is there is asked who it is and told who we are.
    pub fn start(&mut self) {
        for (addr, mac) in self.neighbours.iter().flat_map(host::Neighbours::known) {
            Gateway::adopt(addr, Some(mac), (&mut self.l2, &self.nat));
        }
        if self.link.room() != Room::Nobody {
            self.greet(self.clock.now());
        }
        self.start_scanning();
        self.begin_following();
    }

    /// Due timers and the caller's events. True: the caller says stop.
    fn expire(&mut self, now: Instant, on_event: &mut impl FnMut(Token) -> Next) -> io::Result<bool> {
        let mut due = std::mem::take(&mut self.due);
        self.timers.expire(now, &mut due);
        let mut stop = false;
        for token in due.drain(..) {
            let now = now.max(self.not_before);
            match token.kind {
                Kind::Gateway => self.gateway_timer(now),
                Kind::Stats => self.tell_stats(now),
                Kind::Signal | Kind::Quit => match on_event(token) {
                    Next::Continue => {}
                    Next::WakeAfter(period) => self.timers.arm(now + period, Token::only(Kind::Quit)),
                    Next::Stop => stop = true,
                },
                Kind::Scan => self.scan_timer(now),
                Kind::Plug => self.plugged(now)?,
                Kind::Link => self.converse(now),
                _ => self.flow_timer(token, now),
            }
        }
        // What came meanwhile is for the next turn.
        due.append(&mut self.due);
        self.due = due;
        Ok(stop)
    }

    fn tell_stats(&mut self, now: Instant) {
        let counters = self.counters();
        if let Some(stats) = &mut self.stats {
            if let Some(line) = logging::stats_line(&stats.told, &counters) {
                logging::answer(&line);
            }
            stats.told = counters;
            self.timers.arm(now + stats.period, Token::only(Kind::Stats));
        }
    }

    /// Flows that wait for their turn or for the link, then everything that was put off to the end of the turn.
    fn finish_turn(&mut self, now: Instant) -> io::Result<()> {
        self.accept_waiting(now);
        self.run_splice(now);
        let mut link = std::mem::take(&mut self.link_takes) | self.try_again(now);
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        if link {
            self.link.writable();
            link = self.link.room() == Room::Free;
        }
        // TCP fills whatever room there is, and would leave none for the others, turn after turn; they have little.
        let due = |p| p == Pending::Turn || p == Pending::Link && link;
        if due(self.udp.pending()) {
            self.udp.resume(&facts, &mut self.link, &mut self.timers);
        }
        if due(self.icmp.pending()) {
            self.icmp.resume(&facts, &mut self.link);
        }
        if self.tcp.has_pending() {
            self.tcp.run_pending(&facts, &mut self.link, &mut self.timers);
        }
        if link {
            self.tcp.link_ready(&facts, &mut self.link, &mut self.timers);
        }
        self.tcp.flush(&facts, &mut self.link);
        self.udp.flush(&facts, &mut self.link);
        if self.link.flush().is_err() {
            self.link_lost(now)?;
        }
        self.watch_link();
        self.join_datagrams(now);
        self.tell_who_is_who();
        self.tell_of_broken_rings();
        self.share_descriptors();
        self.forget_deadlines();
        if cfg!(debug_assertions) {
            self.watch_over(now);
        }
        Ok(())
    }

    /// Lets each kind of flow grow into what the others do not use.
    pub(super) fn share_descriptors(&mut self) {
        let (ours, lent) = (self.flows(), self.ports.lent());
        let (others, lent) =
            self.crew.as_ref().map_or((Flows::default(), lent), |crew| (crew.share_flows(&ours), crew.lent(lent)));
        let now = (ours, others, lent);
        if now == std::mem::replace(&mut self.shared_for, now) {
            return;
        }
        let workers = self.crew.as_ref().map_or(1, Crew::len);
        let limits = ours.with(&others).limits(self.descriptors.saturating_sub(lent)).for_one(&ours, &others, workers);
        self.tcp.set_limit(limits.tcp);
        self.udp.set_limit(limits.udp);
        self.icmp.set_limit(limits.icmp);
        if let Some(splice) = &mut self.splice {
            splice.set_limits(limits.spliced_tcp, limits.spliced_udp);
        }
    }

    /// Goes on without the link, if there is one: with the ways from loopback to loopback. False: there is none.
    pub fn unplug(&mut self) -> bool {
        self.link_has_more = false;
        self.hand_in_captures();
        self.unplugged = self.of_link();
        matches!(std::mem::replace(&mut self.link, Link::None), Link::Tap(_))
    }

    /// Hands in what was recorded in a turn that did not come to its end.
    pub(super) fn hand_in_captures(&mut self) {
        if let Some(tee) = self.link.tee() {
            tee.flush();
        }
    }

    /// The guest's namespace has no process left: see [`Link::abandon`].
    pub fn guest_is_gone(&self) {
        self.link.abandon();
    }

    /// What is counted where frames of the guest are dealt with.
    pub(super) fn counted(&self) -> [&Counters; 5] {
        let (tcp, udp, icmp) = (self.tcp.counters(), self.udp.counters(), self.icmp.counters());
        [&self.counters, tcp, udp, icmp, self.reassembly.counters()]
    }

    /// What this worker has counted.
    pub(super) fn own_counters(&self) -> Counters {
        let mut all = Counters::default();
        self.counted().iter().for_each(|part| all.add(part));
        self.splice.iter().for_each(|s| all.add(s.counters()));
        (all.frames_to_guest, all.bytes_to_guest) = (0, 0);
        all.add(&self.of_link());
        all
    }
}

/// The engines that have flows.
struct Flowing {
    tcp: Tcp,
    udp: Udp,
    icmp: Icmp,
    splice: Option<Splice>,
}

impl Flowing {
    fn new(parts: &Parts, registry: &Registry, crew: Option<&Crew>) -> io::Result<Flowing> {
        let Common { outbound, descriptors, udp_timeouts: (short, long), .. } = &parts.common;
        let secret = || KeySecret::random().map_err(io::Error::other);
        let registry = || registry.try_clone();
        let limits = Flows::default().limits(*descriptors);
        let isn_secret = crew.map_or_else(secret, |crew| Ok(crew.isn_secret()))?;
        let mtu = parts.link.caps().mtu;
        let mut tcp = Tcp::new(registry()?, secret()?, isn_secret, outbound.clone(), mtu, limits.tcp);
        let config = udp::Config {
            limit: limits.udp,
            short: *short,
            long: *long,
            outbound: outbound.clone(),
            hand_back: hand_back(&parts.link, &parts.local.unwrap_or_default()),
            binding: crew.map(Crew::binding).unwrap_or_default(),
        };
        let mut udp = Udp::new(registry()?, secret()?, config);
        if let Some(crew) = crew {
            tcp.enlist(crew.share(PROTO_TCP));
            udp.enlist(crew.share(PROTO_UDP));
        }
        let config = icmp::Config { limit: limits.icmp, outbound: outbound.clone(), ..icmp::Config::default() };
        let icmp = Icmp::new(registry()?, secret()?, config);
        let (tcp_limit, udp_limit) = (limits.spliced_tcp, limits.spliced_udp);
        let config = splice::Config { tcp_limit, udp_limit, short: *short, long: *long };
        let splice = parts.local.map(|_| Splice::new(registry()?, secret()?, config)).transpose()?;
        Ok(Flowing { tcp, udp, icmp, splice })
    }
}

fn only(kind: Kind) -> mio::Token {
    mio::Token(Token::only(kind).to_usize())
}
