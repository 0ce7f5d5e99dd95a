//! `spelt announce`: tells the neighbours, and ends.
//!
//! Each round has one frame an address: an ARP announcement (RFC 5227 §2.3; on demand in the form of a reply, which some old
//! switches and hosts want), or an unsolicited neighbour advertisement with the override flag (RFC 4861 §7.2.6). By default
//! two rounds, two seconds apart: ANNOUNCE_NUM and ANNOUNCE_INTERVAL of RFC 5227, and within what RFC 4861 allows.
//!
//! Nothing is received, so there is nothing to be isolated from: capabilities go when the sockets are open.
//!
//! System calls: netlink as in `links`, socket, setsockopt, sendmmsg, clock_nanosleep, those of dropping capabilities.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use anyhow::Context;

use super::args::Announce;
use super::frames::{self, Frame};
use super::links::Links;
use crate::base::Addr;
use crate::config::usage;
use crate::sys::caps;
use crate::sys::packet::{Kind, Packets};
use crate::wire::{arp, ndp};

/// Carries out the command, the first of whose arguments is its name, and returns the exit status.
pub fn main(args: Vec<OsString>) -> u8 {
    let options = match usage::parse::<Announce>("announce", args) {
        Ok(options) => options,
        Err(usage) => return usage.print(),
    };
    match announce(&options) {
        Ok(()) => 0,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "spelt announce: {e:#}");
            1
        }
    }
}

fn announce(options: &Announce) -> anyhow::Result<()> {
    let links = Links::read()?;
    let link = links.named(&options.interface)?;
    let mac = options.mac.or(link.mac).with_context(|| super::no_ethernet(&options.interface))?;
    let frames = |v4: bool| -> Vec<(Addr, Frame)> {
        let of = |addr: &Addr| (*addr, frames::announcement(addr, mac, options.router, options.reply));
        options.addresses.iter().filter(|addr| addr.is_v4() == v4).map(of).collect()
    };
    let mut groups = Vec::new();
    for (frames, kind) in
        [(frames(true), Kind::Arp(arp::REQUEST)), (frames(false), Kind::Icmpv6(ndp::NEIGHBOR_ADVERTISEMENT))]
    {
        if !frames.is_empty() {
            groups.push((Packets::open(kind).with_context(|| super::CANNOT_OPEN)?, frames));
        }
    }
    caps::drop_all_but(&[]).context("cannot drop capabilities")?;
    for round in 0..options.count {
        if round > 0 {
            std::thread::sleep(options.interval);
        }
        for (socket, frames) in &groups {
            send(socket, link.index, frames)
                .with_context(|| format!("'{}' did not take all of round {}", options.interface, round + 1))?;
        }
    }
    Ok(())
}

/// All of them. A full queue of the link is given time.
fn send(socket: &Packets, index: u32, frames: &[(Addr, Frame)]) -> anyhow::Result<()> {
    let (mut sent, mut tries) = (0, 0);
    while sent < frames.len() {
        let batch: Vec<&[u8]> = frames[sent..].iter().map(|(_, frame)| frame.as_slice()).collect();
        match socket.send(index, &batch) {
            Ok(count) => (sent, tries) = (sent + count, 0),
            Err(e) if tries < TRIES && matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            Err(e) => return Err(e).with_context(|| format!("{} was not announced", frames[sent].0)),
        }
    }
    Ok(())
}

const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);
