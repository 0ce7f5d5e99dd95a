//! Listening sockets of a running engine: opened and closed by rules that follow the other side, and by request.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::Interest;
use mio::unix::SourceFd;

use super::crew::Message;
use super::engine::Engine;
use crate::base::{Instant, Kind, Token};
use crate::flow::{Awaited, Belief, Id, Slab};
use crate::fwd::ports::Bound;
use crate::fwd::{Proto, Side};
use crate::host::SockDiag;
use crate::listen::{
    Acceptor, BindError, Change, Forward, ForwardId, Forwards, Handle, Listener, Options, Reason, Rest, Status,
    TakenOut, open_port, open_rule,
};
use crate::sys::sockets::{Here, Nobody, Sockets};
use crate::sys::{is_exhaustion, watch};
use crate::{listen, splice, udp};

/// What the engine needs to open ports and to know which are in use.
pub struct Forwarding {
    pub forwards: Forwards,
    pub options: Options,
    pub host: Namespace,
    pub guest: Namespace,
}

/// What reaches into one namespace.
pub struct Namespace {
    pub sockets: Box<dyn Sockets>,
    /// `None`: nothing follows the ports in use there.
    pub diag: Option<SockDiag>,
}

impl Namespace {
    /// The one this process is in. `look`: the ports in use there matter; `later`: they may, one day.
    pub fn here(look: bool, later: bool) -> Namespace {
        let level = if look { log::Level::Warn } else { log::Level::Debug };
        let tell = |e: &io::Error| log::log!(level, "cannot see which ports are in use here: {e}");
        let open = || SockDiag::open().inspect_err(tell).ok();
        Namespace { sockets: Box::new(Here), diag: (look || later).then(open).flatten() }
    }
}

impl Forwarding {
    /// For an engine that opens no ports.
    pub fn nothing() -> Forwarding {
        let nobody = || Namespace { sockets: Box::new(Nobody), diag: None };
        let options = Options { v4: false, v6: false, freebind: false };
        Forwarding { forwards: Forwards::default(), options, host: nobody(), guest: nobody() }
    }

    pub(super) fn namespace(&mut self, side: Side) -> &mut Namespace {
        match side {
            Side::Host => &mut self.host,
            Side::Guest => &mut self.guest,
        }
    }
}

/// The engine's listening sockets and what goes with them.
pub(super) struct Ports {
    pub tcp: Slab<Listener>,
    pub acceptor: Option<Acceptor>,
    /// Listeners with clients that the last turn did not take, each once.
    pub waiting: VecDeque<Id>,
    /// Listeners whose clients the host has no descriptor for, each once.
    pub stuck: Vec<Id>,
    bound: Bound,
    changes: Vec<Change>,
    /// The time for the next look is set.
    scanning: bool,
    /// Not all new ports could be opened in one look.
    more: bool,
    /// Descriptors that are kept for ports, whatever flows there are.
    kept: usize,
    /// The log knows that descriptors for ports are used up.
    short: bool,
    /// The log knows that a look failed.
    blind: bool,
    /// Closed after the listeners: the process that makes sockets for us takes a moment to end.
    pub forwarding: Forwarding,
}

impl Ports {
    /// What listening sockets are believed not to have.
    pub(super) fn beliefs(&self, all: &mut Vec<Belief>) {
        let mark = self.acceptor.as_ref().map_or(0, |acceptor| acceptor.looks);
        for (id, listener) in self.tcp.iter() {
            if !self.waiting.contains(&id) && !self.stuck.contains(&id) {
                let token = Token::new(Kind::ListenTcp, id.index, id.generation);
                all.push(Belief { token, fd: listener.as_raw_fd(), awaited: Awaited::Arrival, mark });
            }
        }
    }

    pub fn new(forwarding: Forwarding) -> Ports {
        Ports {
            more: false,
            kept: forwarding.forwards.room() + forwarding.forwards.used(),
            forwarding,
            tcp: Slab::default(),
            acceptor: None,
            waiting: VecDeque::new(),
            stuck: Vec::new(),
            bound: Bound::default(),
            changes: Vec::new(),
            scanning: false,
            short: false,
            blind: false,
        }
    }

    /// Descriptors that ports have beyond those kept for them.
    pub fn lent(&self) -> usize {
        self.forwarding.forwards.used().saturating_sub(self.kept)
    }
}

/// Between two looks at the ports in use. A port that appears is forwarded after this long and one look at most: within
/// a second with a good margin.
const SCAN_PERIOD: Duration = Duration::from_millis(700);
/// Until the next look when many ports have appeared at once.
const SCAN_SOON: Duration = Duration::from_millis(20);
/// A look takes this share of the time at most, however many sockets there are.
const SCAN_SHARE: u32 = 20;

impl Engine {
    /// Adds one rule while running, and opens its ports: all of them, or none; of a rule that does not name them, those that can
    /// be had; those of an `auto` rule follow the other side from now on.
    ///
    /// # Errors
    /// The first port that cannot be bound, or that another rule has.
    pub fn add_forward(&mut self, forward: Forward) -> Result<ForwardId, BindError> {
        let f = &mut self.ports.forwarding;
        if let Some(other) = f.forwards.conflict(forward.on, &forward.rule) {
            let port = forward.rule.first.max(other.rule.first);
            return Err(BindError { port, source: Reason(io::Error::from_raw_os_error(libc::EADDRINUSE)) });
        }
        if forward.rule.auto && f.namespace(forward.on.other()).diag.is_none() {
            let blind = io::Error::other("it is to follow ports in use that cannot be seen: name those to forward");
            return Err(BindError { port: forward.rule.first, source: Reason(blind) });
        }
        let id = f.forwards.add(forward.clone());
        self.open_ports_of(id, &forward).inspect_err(|_| drop(self.remove_forward(id)))?;
        Ok(id)
    }

    /// As [`Engine::add_forward`] says; if it fails, some may be open.
    fn open_ports_of(&mut self, id: ForwardId, forward: &Forward) -> Result<(), BindError> {
        if forward.rule.auto {
            self.scan_ports();
            self.start_scanning();
            return Ok(());
        }
        if forward.rule.best_effort {
            return self.open_what_can_be_had(id, forward);
        }
        let f = &mut self.ports.forwarding;
        let (options, namespace) = (f.options, f.namespace(forward.on));
        open_rule(id, forward, &options, namespace.sockets.as_mut())?.into_iter().try_for_each(|l| {
            let port = l.port;
            self.open(l).map_err(|e| BindError { port, source: Reason(e) })
        })
    }

    /// Those of the lowest numbers if descriptors do not suffice for all. One at least.
    fn open_what_can_be_had(&mut self, id: ForwardId, forward: &Forward) -> Result<(), BindError> {
        let budget = self.ports.kept.saturating_add(self.lendable_descriptors());
        self.ports.forwarding.forwards.set_budget(budget);
        let mut first = None;
        for port in forward.rule.first..=forward.rule.last {
            let f = &mut self.ports.forwarding;
            let options = f.options;
            let opened = if f.forwards.room() == 0 {
                Err(io::Error::from_raw_os_error(libc::EMFILE))
            } else {
                open_port(id, forward, port, &options, f.namespace(forward.on).sockets.as_mut())
            };
            if let Err(e) = opened.and_then(|listeners| listeners.into_iter().try_for_each(|l| self.open(l))) {
                let exhausted = is_exhaustion(&e);
                self.ports.forwarding.forwards.refused(id, port, listen::errno(&e));
                first.get_or_insert(BindError { port, source: Reason(e) });
                if exhausted {
                    break;
                }
            }
        }
        match first {
            Some(e) if self.ports.forwarding.forwards.status(id).open == 0 => Err(e),
            _ => Ok(()),
        }
    }

    /// Closes the ports of a rule; connections that exist live on.
    pub fn remove_forward(&mut self, id: ForwardId) -> Option<Forward> {
        let taken = self.take_out_forward(id)?;
        let forward = taken.forward().clone();
        self.forget_forward(taken);
        Some(forward)
    }

    /// Closes the ports of a rule that may come back.
    pub(super) fn take_out_forward(&mut self, id: ForwardId) -> Option<TakenOut> {
        let (taken, sockets) = self.ports.forwarding.forwards.take_out(id)?;
        sockets.into_iter().for_each(|s| self.close(s));
        Some(taken)
    }

    /// It does not come back.
    pub(super) fn forget_forward(&mut self, taken: TakenOut) {
        let via = taken.id().via();
        self.forget(via);
        if let Some(crew) = &self.crew {
            crew.others().for_each(|worker| crew.send(worker, Message::Forget(via)));
        }
    }

    /// Opens its ports again, by the same name and with the same account.
    ///
    /// # Errors
    /// The first port that cannot be bound; then the rule is no more.
    pub(super) fn put_back_forward(&mut self, taken: TakenOut) -> Result<(), BindError> {
        let forward = taken.forward().clone();
        let id = self.ports.forwarding.forwards.put_back(taken);
        self.open_ports_of(id, &forward).inspect_err(|_| drop(self.remove_forward(id)))
    }

    /// All rules, in the order they were added.
    pub fn forwards(&self) -> impl Iterator<Item = (ForwardId, &Forward)> {
        self.ports.forwarding.forwards.iter()
    }

    pub(super) fn forward(&self, id: ForwardId) -> Option<&Forward> {
        self.ports.forwarding.forwards.get(id)
    }

    /// How a rule stands.
    pub(super) fn forward_status(&self, id: ForwardId) -> Status {
        self.ports.forwarding.forwards.status(id)
    }

    /// Takes over a listening socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&mut self, listener: Listener) -> io::Result<()> {
        let (proto, on, forward, port) = (listener.proto, listener.on, listener.forward, listener.port);
        let id = match (on, proto) {
            (_, Proto::Tcp) => {
                if self.ports.acceptor.is_none() {
                    self.ports.acceptor = Some(Acceptor::new()?);
                }
                let id = self.ports.tcp.next_id();
                let token = mio::Token(Token::new(Kind::ListenTcp, id.index, id.generation).to_usize());
                watch::add(self.poll.registry(), listener.as_raw_fd(), token, Interest::READABLE)?;
                self.ports.tcp.insert(listener)
            }
            (Side::Host, Proto::Udp) => {
                let rule = udp::Rule { guest: listener.target, guest_port: listener.target_port, via: forward.via() };
                let id = self.udp.listen(listener.socket, rule)?;
                self.crew.iter_mut().for_each(|crew| crew.reserve([port, rule.guest_port]));
                id
            }
            (Side::Guest, Proto::Udp) => {
                let Some(splice) = &mut self.splice else { return Err(io::ErrorKind::Unsupported.into()) };
                let (addr, port, via) = (listener.target, listener.target_port, forward.via());
                let rule = splice::Rule { origin: on, addr, port, scope: 0, via };
                splice.listen_udp(listener.socket, rule)?
            }
        };
        self.ports.forwarding.forwards.opened(forward, port, Handle { proto, on, id });
        Ok(())
    }

    fn close(&mut self, socket: Handle) {
        match (socket.on, socket.proto) {
            (_, Proto::Tcp) => {
                if let Some(listener) = self.ports.tcp.remove(socket.id) {
                    let _ = self.poll.registry().deregister(&mut SourceFd(&listener.as_raw_fd()));
                }
            }
            (Side::Host, Proto::Udp) => {
                if let (Some(ports), Some(crew)) = (self.udp.unlisten(socket.id), &mut self.crew) {
                    crew.unreserve(ports);
                }
            }
            (Side::Guest, Proto::Udp) => {
                if let Some(splice) = &mut self.splice {
                    splice.unlisten_udp(socket.id);
                }
            }
        }
    }

    /// Looks at the ports in use on either side, as far as rules follow them, and opens and closes what that means.
    pub fn scan_ports(&mut self) {
        self.ports.more = false;
        for side in [Side::Guest, Side::Host] {
            let f = &mut self.ports.forwarding;
            if !f.forwards.follows(side) {
                continue;
            }
            let mut bound = std::mem::take(&mut self.ports.bound);
            let namespace = f.namespace(side);
            let looked = namespace.diag.as_mut().map(|d| d.scan(&mut bound));
            match looked {
                Some(Ok(())) => self.follow(side, &bound),
                Some(Err(e)) => {
                    if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EPERM | libc::EACCES)) {
                        namespace.diag = None;
                    }
                    if !std::mem::replace(&mut self.ports.blind, true) {
                        log::warn!(
                            "cannot see which ports are in use ({e}; the kernel's modules tcp_diag and udp_diag tell): \
                             ports of 'auto' stay as they are, name those to forward"
                        );
                    }
                }
                None => {}
            }
            self.ports.bound = bound;
        }
    }

    /// The time for a look has come.
    pub(super) fn scan_timer(&mut self, now: Instant) {
        self.ports.scanning = false;
        self.scan_ports();
        let took = self.clock.now().since(now);
        self.arm_scan(self.scan_period().max(took * SCAN_SHARE));
    }

    /// Looks come in time from now on.
    pub(super) fn start_scanning(&mut self) {
        self.arm_scan(self.scan_period());
    }

    fn scan_period(&self) -> Duration {
        if self.ports.more { SCAN_SOON } else { SCAN_PERIOD }
    }

    fn arm_scan(&mut self, after: Duration) {
        let f = &self.ports.forwarding;
        let looks = |side, namespace: &Namespace| namespace.diag.is_some() && f.forwards.follows(side);
        if !self.ports.scanning && (looks(Side::Guest, &f.guest) || looks(Side::Host, &f.host)) {
            self.ports.scanning = true;
            self.timers.arm(self.clock.now() + after, Token::only(Kind::Scan));
        }
    }

    fn follow(&mut self, namespace: Side, bound: &Bound) {
        let mut changes = std::mem::take(&mut self.ports.changes);
        let budget = self.ports.kept.saturating_add(self.lendable_descriptors());
        let forwards = &mut self.ports.forwarding.forwards;
        forwards.set_budget(budget);
        let rest = forwards.changes(namespace, bound, &mut changes);
        self.ports.more |= rest == Rest::Next;
        for change in changes.drain(..) {
            match change {
                Change::Close(id, port) => {
                    let sockets = self.ports.forwarding.forwards.closed(id, port);
                    sockets.for_each(|s| self.close(s));
                }
                Change::Open(id, port) => self.open_followed(id, port),
            }
        }
        self.ports.changes = changes;
        if rest == Rest::NoRoom && !std::mem::replace(&mut self.ports.short, true) {
            log::warn!("not all ports of 'auto' are forwarded for lack of descriptors: raise the limit (`ulimit -Hn`)");
        }
    }

    fn open_followed(&mut self, id: ForwardId, port: u16) {
        let f = &mut self.ports.forwarding;
        let Some(forward) = f.forwards.get(id).cloned() else { return };
        let options = f.options;
        let opened = open_port(id, &forward, port, &options, f.namespace(forward.on).sockets.as_mut())
            .and_then(|listeners| listeners.into_iter().try_for_each(|l| self.open(l)));
        if let Err(e) = opened
            && !self.ports.forwarding.forwards.refused(id, port, listen::errno(&e))
        {
            log::debug!(port = port, forward = forward.origin; "port {port} of '{}' is in use but cannot be forwarded: {}", forward.origin, Reason(e));
        }
    }
}

#[cfg(test)]
mod tests;
