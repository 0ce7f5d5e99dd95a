//! Who is at the other end of the link: guests that come and go behind a socket.

use std::io;
use std::time::Duration;

use mio::Interest;

use super::crew::Message;
use super::engine::Engine;
use crate::base::{Instant, Kind, Mac, Token};
use crate::guest::{Facts, Room, ToGuest};
use crate::link::{Accepted, Input, Link, Talk, Vhost};
use crate::sys::watch;

/// Passes over what a client has left behind: more than fits into its socket, unless that has been made far larger.
const LAST_PASSES: usize = 1024;
/// Requests of the hypervisor that a turn deals with.
const REQUESTS: usize = 64;
/// Until those who could not be taken in are looked at again.
const LATER: Duration = Duration::from_millis(100);
/// The caller's event for a client that has gone.
pub(super) const CLIENT_GONE: Token = Token { kind: Kind::Quit, generation: 0, index: 3 };

impl Engine {
    /// From now on the link's events are ours to hear, if there is anything at its other end.
    pub(super) fn register_link(&mut self) -> io::Result<()> {
        let fds = self.link.fds();
        if fds.is_empty() {
            return Ok(());
        }
        self.plugged_in = (self.plugged_in + 1) % Token::GENERATIONS;
        self.link_watched = false;
        let fds = fds.into_iter().enumerate();
        fds.map(|(place, fd)| (fd, self.link_token(place)))
            .try_for_each(|(fd, token)| watch::add(self.poll.registry(), fd, token, Interest::READABLE))
    }

    /// Hears of room in the link only while it is full. A socket whose reader keeps up would tell of it after every write.
    pub(super) fn watch_link(&mut self) {
        // Of room in rings, kicks tell.
        if let Link::Vhost(_) | Link::Card(_) = self.link {
            return;
        }
        let full = self.link.room() == Room::Full;
        if full == self.link_watched {
            return;
        }
        let interest = if full { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let fds = self.link.fds();
        // Fails only for a descriptor that is not registered, and these are.
        let done = fds
            .iter()
            .enumerate()
            .try_for_each(|(place, fd)| watch::change(self.poll.registry(), *fd, self.link_token(place), interest));
        self.link_watched = full && !fds.is_empty() && done.is_ok();
    }

    /// Of the descriptor of this place in [`Link::fds`].
    fn link_token(&self, place: usize) -> mio::Token {
        mio::Token(Token::new(Kind::Link, place as u32, self.plugged_in).to_usize())
    }

    /// The link has frames, or takes frames again.
    pub(super) fn link_event(&mut self, token: Token, event: &mio::event::Event, now: Instant) {
        if token.generation != self.plugged_in {
            return;
        }
        if let Link::Vhost(_) = self.link {
            return self.converse(now);
        }
        // Reading tells which error: the interface, or the client, is gone.
        let ends = event.is_error() || event.is_read_closed();
        if ends {
            self.link.ending();
        }
        if event.is_readable() || ends {
            self.link.readable(token.index as usize);
            self.link_has_more = true;
        }
        self.link_takes |= event.is_writable();
    }

    /// The driver has put something into a ring.
    pub(super) fn ring_event(&mut self, token: Token) {
        let ring = token.index as usize;
        match (&self.link, &self.crew) {
            (Link::Card(card), Some(crew)) if !card.has(ring) => crew.send(0, Message::Kicked(ring)),
            _ if token.generation == self.plugged_in => self.kicked(ring),
            _ => {}
        }
    }

    pub(super) fn kicked(&mut self, ring: usize) {
        if Vhost::is_to_guest(ring) {
            self.link_takes = true;
        } else {
            self.link_has_more = true;
        }
    }

    /// The hypervisor has something to say.
    pub(super) fn converse(&mut self, now: Instant) {
        let was_there = self.link.room() != Room::Nobody;
        self.recall_rings();
        let mut talk = Talk::More;
        for _ in 0..REQUESTS {
            talk = self.link.converse(now);
            self.watch_rings();
            if talk != Talk::More {
                break;
            }
        }
        self.deal_rings();
        // What waits in rings may never be told of again.
        (self.link_has_more, self.link_takes) = (true, true);
        match talk {
            Talk::More => self.due.push(Token::only(Kind::Link)),
            Talk::Silence => {}
            Talk::Gone => self.client_gone(now),
        }
        if !was_there && self.link.room() != Room::Nobody {
            self.greet(now);
        }
    }

    /// Somebody connects to the link's socket.
    pub(super) fn plugged(&mut self, now: Instant) -> io::Result<()> {
        // One that is started again may be here before we have heard of its end.
        if self.link.has_lost_client() {
            self.hear_out_client(now)?;
        }
        let plug = Token::only(Kind::Plug);
        match self.link.accept(now) {
            Accepted::Nobody => return Ok(()),
            Accepted::Some => {
                self.due.push(plug);
                return Ok(());
            }
            Accepted::Failed => {
                self.timers.arm(now + LATER, plug);
                return Ok(());
            }
            // Whether those behind it are turned away depends on whether it is there still.
            Accepted::Client => self.due.push(plug),
        }
        if let Err(e) = self.register_link() {
            log::warn!("cannot serve the client: {e}");
            self.client_gone(now);
            return Ok(());
        }
        // What waits for room has it now.
        (self.link_has_more, self.link_takes) = (true, true);
        if self.link.room() != Room::Nobody {
            self.greet(now);
        }
        Ok(())
    }

    /// A client that has closed its end: its last frames count.
    pub(super) fn hear_out_client(&mut self, now: Instant) -> io::Result<()> {
        self.recall_rings();
        self.link.ending();
        // What is in rings is in no socket, and somebody may fill them still.
        let passes = if let Link::Vhost(_) = self.link { 1 } else { LAST_PASSES };
        for _ in 0..passes {
            if self.drain_link(now)? != Input::More {
                break;
            }
        }
        self.client_gone(now);
        Ok(())
    }

    /// The client has gone. Its guest's flows stay, for it may come again; the caller decides whether we do.
    pub(super) fn client_gone(&mut self, now: Instant) {
        self.recall_rings();
        if let (Link::Vhost(_), Some(crew)) = (&self.link, &self.crew) {
            crew.others().for_each(|worker| crew.send(worker, Message::Unplugged));
        }
        self.link.disconnect(&mut self.batch, now);
        self.watch_rings();
        self.link_has_more = false;
        // Somebody may wait already.
        self.due.extend([CLIENT_GONE, Token::only(Kind::Plug)]);
    }

    /// A guest is there: asks who it is and tells who we are.
    pub(super) fn greet(&mut self, now: Instant) {
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        self.gateway.start(&facts, &mut self.link);
        self.arm_gateway();
    }

    /// A guest that has not said anything yet has no MAC that we know, and frames to all stations are not for its TCP.
    pub(super) fn seek_guest(&mut self, now: Instant) {
        if self.l2.guest_mac == Mac::BROADCAST {
            let facts = Facts { now, l2: &self.l2, nat: &self.nat };
            self.gateway.seek(&facts, &mut self.link);
        }
    }

    pub(super) fn gateway_timer(&mut self, now: Instant) {
        // Entries are never cancelled: one that a later guest's has overtaken is nobody's.
        if now < self.gateway_due {
            return;
        }
        self.gateway_due = Instant::FAR;
        let facts = Facts { now, l2: &self.l2, nat: &self.nat };
        self.gateway.on_timer(&facts, &mut self.link);
        self.arm_gateway();
    }

    pub(super) fn arm_gateway(&mut self) {
        if let Some(at) = self.gateway.next_timer().filter(|at| *at < self.gateway_due) {
            self.gateway_due = at;
            self.timers.arm(at, Token::only(Kind::Gateway));
        }
    }
}
