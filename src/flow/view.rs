//! What a person may want to know of a flow: a copy, to be shown elsewhere.

use std::time::Duration;

use socket2::Socket;

use crate::base::{Endpoint, Instant};
use crate::sys::socket;

/// Payload that has passed, either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub from_guest: Amount,
    pub to_guest: Amount,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Frames or messages as they came: a super-frame counts once.
    pub frames: u64,
    pub bytes: u64,
}

impl Amount {
    pub fn add(&mut self, frames: usize, bytes: usize) {
        self.frames += frames as u64;
        self.bytes += bytes as u64;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
    Echo,
    /// Past the link, between the loopbacks of host and guest.
    TcpSplice,
    UdpSplice,
}

/// A flow, at one moment.
#[derive(Clone, Debug)]
pub struct View {
    pub protocol: Protocol,
    /// As the guest has them: its own endpoint, and that of its peer. Of an echo flow `guest` has the identifier as its port.
    /// Of a spliced flow, the client's and where that connected to.
    pub guest: Endpoint,
    pub remote: Endpoint,
    /// The host's socket: its own endpoint, and that of its peer. `None`: there is none, or its ends are not known.
    pub host: Option<(Endpoint, Endpoint)>,
    /// The first packet came from the guest.
    pub by_guest: bool,
    /// In the words of the protocol.
    pub state: &'static str,
    pub age: Duration,
    /// Since the last packet.
    pub idle: Duration,
    pub traffic: Traffic,
    /// Towards the guest, smoothed. `None`: not measured.
    pub rtt: Option<Duration>,
    /// Frames that were sent to the guest again.
    pub resent: u32,
    /// What it waits for before it can go on; `None`: for nothing but the peers.
    pub waits_for: Option<&'static str>,
}

impl View {
    /// Of a flow that began and was used last at these times. Of all else, nothing is known yet.
    pub fn new(
        protocol: Protocol,
        (guest, remote): (Endpoint, Endpoint),
        (born, last_used): (Instant, Instant),
        state: &'static str,
        now: Instant,
    ) -> View {
        View {
            protocol,
            guest,
            remote,
            host: None,
            by_guest: false,
            state,
            age: now.since(born),
            idle: now.since(last_used),
            traffic: Traffic::default(),
            rtt: None,
            resent: 0,
            waits_for: None,
        }
    }
}

/// A flow as it is looked at, with sockets that know more: asking them costs two system calls each.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    pub view: View,
    /// The host's.
    pub host: Option<&'a Socket>,
    /// Of a spliced flow that knows it by its socket only: the client's.
    pub client: Option<&'a Socket>,
}

impl Sight<'_> {
    /// With what the client's socket knows, and if wanted the host's.
    #[must_use]
    pub fn with_ends(mut self, host: bool) -> Self {
        if let Some((own, client)) = self.client.take().and_then(socket::ends) {
            (self.view.guest, self.view.remote) = (client, own);
        }
        if host {
            self.view.host = self.host.and_then(socket::ends);
        }
        self
    }
}
