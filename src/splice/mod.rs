//! Sockets joined.

mod lane;
mod pipes;
mod stream;

#[cfg(test)]
mod tests;

use std::time::Duration;

use mio::Registry;
use socket2::Socket;

use crate::base::{Counters, DropReason, Endpoint, Kind, Token};
use crate::flow::{Id, Pending, Ready};
use crate::sys::sockets::Sockets;
use stream::{CLIENT, Streams, TARGET};

#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub tcp_limit: usize,
    pub udp_limit: usize,
    pub short: Duration,
    pub long: Duration,
}

pub struct Splice {
    streams: Streams,
    counters: Counters,
}

impl Splice {
    pub fn new(registry: Registry, config: Config) -> std::io::Result<Splice> {
        Ok(Splice { streams: Streams::new(registry.try_clone()?, config.tcp_limit), counters: Counters::default() })
    }

    pub fn tcp(
        &mut self,
        client: Socket,
        target: Endpoint,
        scope: u32,
        sockets: &mut dyn Sockets,
    ) -> Result<(), DropReason> {
        self.streams.open(client, target, scope, sockets).inspect_err(|reason| self.counters.drop(*reason))
    }

    pub fn event(&mut self, token: Token, ready: Ready) {
        let id = Id { index: token.index, generation: token.generation };
        match token.kind {
            Kind::SpliceClient => self.streams.event(CLIENT, id, ready, &mut self.counters),
            Kind::SpliceTarget => self.streams.event(TARGET, id, ready, &mut self.counters),
            _ => {}
        }
    }

    pub fn pending(&self) -> Pending {
        Pending::of(self.streams.has_pending(), false)
    }

    pub fn run_pending(&mut self) {
        self.streams.run_pending();
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn len(&self) -> usize {
        self.streams.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
