//! Requests of other programs, from the control socket to the engine.

use super::engine::Engine;
use crate::base::{Instant, Kind, Token};
use crate::control::slirp4netns::{Forwarder, LIFE};
use crate::fwd::Side;
use crate::fwd::ports::Rule;
use crate::listen::{Forward, ForwardId};

impl Engine {
    /// An event of the control socket or one of its clients.
    pub(super) fn api_event(&mut self, token: Token, now: Instant) {
        // Out of the engine while the engine carries out what it says.
        let Some(mut api) = self.api.take() else { return };
        let room = token.kind == Kind::Api || api.serve(token, self);
        while room && let Some(client) = api.accept(self.poll.registry()) {
            self.timers.arm(now + LIFE, client);
        }
        self.api = Some(api);
    }

    /// A client's time is over.
    pub(super) fn api_timer(&mut self, token: Token, now: Instant) {
        if self.api.as_mut().is_some_and(|api| api.expire(token)) {
            self.api_event(Token::only(Kind::Api), now);
        }
    }
}

impl Forwarder for Engine {
    fn add(&mut self, rule: Rule) -> Result<u64, String> {
        let forward = Forward { rule, on: Side::Host, origin: "add_hostfwd".into() };
        self.add_forward(forward).map(ForwardId::number).map_err(|e| e.to_string())
    }

    fn remove(&mut self, id: u64) -> bool {
        ForwardId::from_number(id).and_then(|id| self.remove_forward(id)).is_some()
    }

    fn list(&self) -> Vec<(u64, Rule)> {
        let on_host = self.forwards().filter(|(_, f)| f.on == Side::Host);
        on_host.map(|(id, f)| (id.number(), f.rule.clone())).collect()
    }
}
