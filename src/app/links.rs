//! What each worker has of the guest's link.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::thread;

use super::machine::Plugged;
use crate::config::{Config, Mode};
use crate::fwd::Local;
use crate::guest::Caps;
use crate::link::{Card, Link, Tap, Tee, Vhost};
use crate::ns;
use crate::udp::HandBack;

/// How many workers there are to be: as many as were asked for, else as there are queues and processors.
pub fn workers(config: &Config) -> usize {
    let queues = match &config.mode {
        Mode::Machine { .. } if config.vhost_user => Vhost::PAIRS,
        Mode::Machine { .. } => 1,
        Mode::Spawn { .. } | Mode::Attach { .. } => config.queues.map_or(1, usize::from),
    };
    let processors = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    config.threads.map_or_else(processors, usize::from).min(queues)
}

/// The links of that many workers, the first one's first.
pub fn links(
    mtu: u16,
    tap: Option<ns::Tap>,
    plugged: Option<Plugged>,
    vhost_user: bool,
    (tee, workers): (Tee, usize),
) -> Vec<Link> {
    if let Some(plugged) = plugged {
        let card = |_| Link::Card(Box::new(Card::new(mtu, tee.sibling())));
        let others: Vec<Link> = (1..workers).map(card).collect();
        return std::iter::once(plugged.link(mtu, vhost_user, tee)).chain(others).collect();
    }
    match tap {
        Some(tap) if !tap.fds.is_empty() => {
            let on = tap.offloads;
            let caps = Caps { csum: on.csum, tso: on.vnet_header, uso: on.uso, mtu };
            let link = |fds| Link::Tap(Box::new(Tap::new(fds, on.vnet_header, caps, tee.sibling())));
            deal(tap.fds, workers).into_iter().map(link).collect()
        }
        _ => (0..workers).map(|_| Link::None).collect(),
    }
}

/// One queue for each in turn.
fn deal(queues: Vec<OwnedFd>, workers: usize) -> Vec<Vec<OwnedFd>> {
    let mut all: Vec<Vec<OwnedFd>> = (0..workers).map(|_| Vec::new()).collect();
    queues.into_iter().enumerate().for_each(|(i, fd)| all[i % workers].push(fd));
    all
}

/// Whose datagrams from clients do not go to the link.
pub fn hand_back(link: &Link, local: &Local) -> HandBack {
    match link {
        Link::None => HandBack::Everybody,
        _ if local.on => HandBack::Loopback,
        _ => HandBack::Nobody,
    }
}
