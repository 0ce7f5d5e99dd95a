//! Errors of the host as ICMP to the guest.

use std::io;
use std::os::fd::AsFd;

use super::flow::Flow;
use crate::base::Addr;
use crate::flow::FlowKey;
use crate::guest::errors::reporter;
use crate::guest::{Facts, IcmpErrors, ToGuest};
use crate::sys::errqueue::{self, HostError, Origin, QUOTE_MAX};
use crate::sys::fields::path_mtu;
use crate::wire::icmp::ErrorKind;

/// Errors taken from one socket's queue in one go; the kernel's queue is bounded by the receive buffer.
const DRAIN_MAX: usize = 64;

/// Sends and buffers for errors.
#[derive(Debug)]
pub struct Relay {
    icmp: IcmpErrors,
    quote: Box<[u8; QUOTE_MAX]>,
    original: Vec<u8>,
}

impl Default for Relay {
    fn default() -> Self {
        Relay { icmp: IcmpErrors::default(), quote: Box::new([0; QUOTE_MAX]), original: Vec::new() }
    }
}

impl Relay {
    /// Empties the error queue of a flow's socket towards the guest.
    pub fn drain(&mut self, flow: &Flow, key: &FlowKey, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        for _ in 0..DRAIN_MAX {
            let Ok(Some(e)) = errqueue::next(flow.socket.as_fd(), &mut self.quote) else { return };
            self.relay(&e, flow, key, facts, link);
        }
    }

    /// Tells the guest of an error about what a flow has sent. What came back of it is in `self.quote`.
    fn relay(&mut self, e: &HostError, flow: &Flow, key: &FlowKey, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        // A local error was the answer to a send, which told the guest already.
        if e.origin == Origin::Local {
            return;
        }
        // A resolver may be of the other family (`--dns-host`).
        let family = flow.target.addr.family();
        let understood = if family == key.guest.addr.family() { ErrorKind::relayed } else { ErrorKind::translated };
        let (Some(kind), Some(sent)) = (understood(family, e.kind, e.code, e.info), &flow.sent) else { return };
        sent.quote(&mut self.original, None, &self.quote[..e.quoted], true);
        let from = reporter(facts, e.offender.map(Addr::from), flow.target.addr, key.remote.addr);
        self.icmp.send(facts, link, (from, key.guest.addr), kind, &self.original);
    }

    /// As if the host had reported this error, and `quote` had come back with it. For tests.
    pub fn report(
        &mut self,
        (e, quote): (&HostError, &[u8]),
        flow: &Flow,
        key: &FlowKey,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) {
        let quoted = quote.len().min(self.quote.len());
        self.quote[..quoted].copy_from_slice(&quote[..quoted]);
        self.relay(&HostError { quoted, ..*e }, flow, key, facts, link);
    }

    /// The host's kernel refused to send what the guest sent last, of which `body` is the payload or its beginning.
    pub fn refused(
        &mut self,
        e: &io::Error,
        flow: &Flow,
        key: &FlowKey,
        body: &[u8],
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) {
        let Some(sent) = &flow.sent else { return };
        sent.quote(&mut self.original, None, body, true);
        let (remote, guest) = (key.remote.addr, key.guest.addr);
        let mtu = || path_mtu(flow.socket.as_fd(), remote.is_v4()).ok();
        self.icmp.refused(e, mtu, (remote, guest), &self.original, facts, link);
    }

    /// The host's kernel refused to make a socket for a packet, of which `original` is the beginning, IP header on.
    pub fn refused_flow(
        &mut self,
        e: &io::Error,
        key: &FlowKey,
        original: &[u8],
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) {
        self.icmp.refused(e, || None, (key.remote.addr, key.guest.addr), original, facts, link);
    }
}
