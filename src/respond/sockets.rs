//! The packet sockets: which link each hears, and what leaves by them.

use std::io;
use std::time::Duration;

use anyhow::Context;

use super::core::{Outgoing, Responder, Settings};
use super::reason::Reason;
use super::rules::Method;
use crate::base::Instant;
use crate::logging::Limiter;
use crate::sys::packet::{BATCH, Kind, Packets};
use crate::wire::{arp, ndp};

/// What a socket hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Questions, on the uplink with this number.
    Uplink(usize),
    /// Answers, on the link behind with this number.
    Behind(usize),
    /// Answers, on any link.
    Anywhere,
}

pub struct Socket {
    pub place: Place,
    pub v4: bool,
    pub packets: Packets,
    /// Index of the link that it hears; `None`: it is not there.
    bound: Option<u32>,
}

pub struct Sockets {
    pub all: Vec<Socket>,
    complaints: Limiter,
}

impl Sockets {
    /// All that the settings ask for; none hears anything yet.
    ///
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn open(settings: &Settings) -> anyhow::Result<Sockets> {
        let mut all = Vec::new();
        let mut open = |place, v4| -> anyhow::Result<()> {
            let kind = match (place, v4) {
                (Place::Uplink(_), false) => Kind::Icmpv6(ndp::NEIGHBOR_SOLICITATION),
                (Place::Uplink(_), true) => Kind::Arp(arp::REQUEST),
                (_, false) => Kind::Icmpv6(ndp::NEIGHBOR_ADVERTISEMENT),
                (_, true) => Kind::Arp(arp::REPLY),
            };
            let packets = Packets::open(kind).context(super::CANNOT_OPEN)?;
            all.push(Socket { place, v4, packets, bound: None });
            Ok(())
        };
        for v4 in [false, true] {
            let serving = || settings.uplinks.iter().enumerate().filter(move |(_, u)| u.rules.has_family(v4));
            for (number, _) in serving() {
                open(Place::Uplink(number), v4)?;
            }
            // One that hears all links hears those too that are named.
            if serving().any(|(_, u)| u.rules.uses(|m| m == Method::Auto)) {
                open(Place::Anywhere, v4)?;
                continue;
            }
            for number in 0..settings.behind.len() {
                if serving().any(|(_, u)| u.rules.uses(|m| m == Method::Via(number))) {
                    open(Place::Behind(number), v4)?;
                }
            }
        }
        Ok(Sockets { all, complaints: Limiter::new(5, Duration::from_secs(60)) })
    }

    /// Binds those whose link has another index than before, or is there now.
    ///
    /// # Errors
    /// The kernel's.
    pub fn follow(&mut self, responder: &Responder) -> io::Result<()> {
        for socket in &mut self.all {
            let index = match socket.place {
                Place::Uplink(number) => responder.uplink_index(number),
                Place::Behind(number) => responder.behind_index(number),
                Place::Anywhere => Some(0),
            };
            if index == socket.bound {
                continue;
            }
            if let Some(index) = index {
                // In this order: nothing is missed once it is bound.
                if let (Place::Uplink(_), false) = (socket.place, socket.v4) {
                    socket.packets.join_all_groups(index)?;
                }
                socket.packets.bind(index)?;
            }
            socket.bound = index;
        }
        Ok(())
    }

    /// Sends all of `out`, and leaves it empty.
    pub fn send(&mut self, out: &mut Vec<Outgoing>, responder: &mut Responder, now: Instant) {
        let mut rest = out.as_slice();
        while let Some(first) = rest.first() {
            let alike = rest.iter().take(BATCH).take_while(|o| (o.index, o.v4) == (first.index, first.v4)).count();
            let socket = self.all.iter().find(|s| s.v4 == first.v4);
            let sent = socket.map_or(Ok(0), |s| s.packets.send(first.index, &rest[..alike]));
            let done = match sent {
                Ok(count) if count > 0 => count,
                other => {
                    // The first was refused; the others may be luckier.
                    responder.counters.drop(Reason::NotSent);
                    if let (Err(e), Some(before)) = (other, self.complaints.allow(now)) {
                        let more = if before > 0 { format!(" ({before} more before)") } else { String::new() };
                        log::warn!("an answer could not be sent: {e}{more}");
                    }
                    1
                }
            };
            rest = &rest[done..];
        }
        out.clear();
    }
}
