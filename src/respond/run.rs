//! The loop: what is ready is read to its end, answered in one go, and then there is nothing to do until somebody asks.
//!
//! System calls: epoll_wait, recvmmsg, sendmmsg, read (signals), sendto and recvfrom (netlink), bind and setsockopt (a link
//! that has come back), those of `control::service` and `logging`.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::Context;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::core::{Outgoing, Responder};
use super::desk::Desk;
use super::engine::Follower;
use super::kernel::{Kernel, News};
use super::sockets::{Place, Sockets};
use crate::base::{Clock, Instant};
use crate::control::service::Service;
use crate::sys::packet::Inbox;
use crate::sys::signal::Signals;
use crate::sys::text::Clean;

pub struct Parts {
    pub responder: Responder,
    pub sockets: Sockets,
    pub kernel: Kernel,
    pub news: News,
    pub follower: Option<Follower>,
    pub control: Option<Service>,
    pub signals: Signals,
}

pub struct Loop {
    parts: Parts,
    poll: Poll,
    clock: Clock,
    started: std::time::Instant,
    inbox: Inbox,
    out: Vec<Outgoing>,
    /// Sockets that may have more.
    ready: Vec<bool>,
    /// When to look at the links again, if something about them has changed.
    look_at: Option<Instant>,
    looked_at: Instant,
    code: Option<Clean>,
    /// Code that is seldom needed has just been used.
    unsettled: bool,
}

const SIGNALS: Token = Token(0);
const NEWS: Token = Token(1);
const CONTROL: Token = Token(2);
const CONTAINERS: Token = Token(3);
const SOCKETS: usize = 4;

/// Batches of one socket before others have their turn.
const BATCHES: usize = 8;
/// The kernel's news come in crowds, as when a container starts; the lists are read this often at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// When nothing has happened for so long, code that is seldom needed is let go of.
const SETTLED: Duration = Duration::from_secs(1);

impl Loop {
    /// `code`: what is seldom needed of it is let go of.
    ///
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn new(parts: Parts, code: Option<Clean>) -> anyhow::Result<Loop> {
        let poll = Poll::new().context("cannot wait for events")?;
        let register = |fd, token| poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
        let all = || -> io::Result<()> {
            register(parts.signals.as_raw_fd(), SIGNALS)?;
            register(parts.news.as_raw_fd(), NEWS)?;
            if let Some(control) = &parts.control {
                register(control.as_raw_fd(), CONTROL)?;
            }
            if let Some(follower) = &parts.follower {
                register(follower.as_raw_fd(), CONTAINERS)?;
            }
            for (i, socket) in parts.sockets.all.iter().enumerate() {
                register(socket.packets.as_raw_fd(), Token(SOCKETS + i))?;
            }
            Ok(())
        };
        all().context("cannot wait for events")?;
        Ok(Loop {
            // What came before is not told of again.
            ready: vec![true; parts.sockets.all.len()],
            parts,
            poll,
            clock: Clock::start(),
            started: std::time::Instant::now(),
            inbox: Inbox::default(),
            out: Vec::new(),
            look_at: None,
            looked_at: Clock::BEGIN,
            code,
            unsettled: true,
        })
    }

    /// Serves until a signal or a client says that it is enough.
    ///
    /// # Errors
    /// Polling failed, as a sentence.
    pub fn run(&mut self) -> anyhow::Result<()> {
        self.parts.responder.begin(self.clock.now(), &mut self.out);
        self.flush();
        // What came before is not told of again.
        self.hear_containers()?;
        let mut events = Events::with_capacity(16);
        loop {
            let mut asked = false;
            let (wait, began) = (self.patience(), self.unsettled.then(|| self.clock.now()));
            match self.poll.poll(&mut events, wait) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other.context("cannot wait for events")?,
            }
            if began.is_some_and(|began| self.clock.now().since(began) >= SETTLED) {
                self.settle();
            }
            for event in &events {
                match event.token() {
                    SIGNALS => {
                        if self.parts.signals.take().context("cannot read signals")?.is_some() {
                            return Ok(());
                        }
                    }
                    NEWS => self.hear_news(),
                    CONTROL => asked = true,
                    CONTAINERS => self.hear_containers()?,
                    Token(n) => self.ready[n - SOCKETS] = true,
                }
            }
            self.look();
            (0..self.ready.len()).for_each(|i| self.receive(i));
            let now = self.clock.now();
            self.parts.responder.due(now, &mut self.out);
            self.flush();
            if self.serve_control(asked)? {
                return Ok(());
            }
        }
    }

    fn patience(&self) -> Option<Duration> {
        if self.ready.contains(&true) {
            return Some(Duration::ZERO);
        }
        let now = self.clock.now();
        let until = |at: Instant| {
            // Rounded up, else it is a little early each time.
            at.since(now) + Duration::from_millis(1)
        };
        let own = self.parts.responder.deadline().into_iter().chain(self.look_at).min().map(until);
        let control = self.parts.control.as_ref().and_then(Service::patience);
        let settling = self.unsettled.then_some(SETTLED);
        own.into_iter().chain(control).chain(settling).min()
    }

    /// The start, and reading the kernel's lists, take more code than all the rest.
    fn settle(&mut self) {
        self.unsettled = false;
        if let Some(Err(e)) = self.code.as_ref().map(Clean::let_go) {
            log::debug!("code that is seldom needed stays in memory: {e}");
        }
    }

    /// True if a client wants the end. `asked`: there was an event; else its own patience may be over.
    fn serve_control(&mut self, asked: bool) -> anyhow::Result<bool> {
        let Some(control) = &mut self.parts.control else { return Ok(false) };
        if !asked && control.patience().is_none() {
            return Ok(false);
        }
        let desk = Desk { responder: &self.parts.responder, started: self.started, quit: false.into() };
        control.turn(Some(Duration::ZERO), &desk).context("cannot wait for clients of the control socket")?;
        Ok(desk.quit.get())
    }

    fn hear_news(&mut self) {
        if self.parts.news.drain() {
            self.look_at = Some(self.clock.now().max(self.looked_at + LOOK_INTERVAL));
        }
    }

    fn hear_containers(&mut self) -> anyhow::Result<()> {
        let Parts { follower: Some(follower), responder, .. } = &mut self.parts else { return Ok(()) };
        let told = follower.take().context("the process that follows the container engine has ended")?;
        if let Some(addresses) = told {
            log::debug!("{} addresses of containers", addresses.len());
            responder.set_containers(addresses, &mut self.out);
            self.flush();
        }
        Ok(())
    }

    /// Reads the links again, when it is time.
    fn look(&mut self) {
        let now = self.clock.now();
        if self.look_at.is_none_or(|at| at > now) {
            return;
        }
        (self.look_at, self.looked_at, self.unsettled) = (None, now, true);
        let looked = self.parts.kernel.links().and_then(|links| {
            self.parts.responder.set_links(links);
            self.parts.sockets.follow(&self.parts.responder).context("cannot hear a link that has come back")
        });
        if let Err(e) = looked {
            log::warn!("{e:#}; trying again");
            self.look_at = Some(now + Duration::from_secs(1));
        }
    }

    /// What one socket has, or a part of it.
    fn receive(&mut self, i: usize) {
        if !std::mem::take(&mut self.ready[i]) {
            return;
        }
        for _ in 0..BATCHES {
            let Parts { sockets, responder, kernel, .. } = &mut self.parts;
            let socket = &sockets.all[i];
            match socket.packets.receive(&mut self.inbox) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The link has gone down, or away: news tell when it is back.
                Err(e) => {
                    log::debug!("a link cannot be heard: {e}");
                    continue;
                }
            }
            let now = self.clock.now();
            for frame in self.inbox.frames() {
                let bytes = (frame.bytes, frame.len);
                match socket.place {
                    Place::Uplink(number) => {
                        responder.heard(number, bytes, socket.v4, now, kernel, &mut self.out);
                    }
                    _ => responder.heard_behind(frame.index, bytes, socket.v4, now, &mut self.out),
                }
            }
            self.flush();
        }
        self.ready[i] = true;
    }

    fn flush(&mut self) {
        let Parts { sockets, responder, .. } = &mut self.parts;
        sockets.send(&mut self.out, responder, self.clock.now());
    }
}
