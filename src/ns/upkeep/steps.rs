//! Changes of the guest's interface in order, and what became of them.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteMessage;

use crate::base::Prefix;
use crate::sys::netlink::{Change, Netlink};

/// What a step is about.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Address(Prefix),
    Route(RouteMessage),
}

#[derive(Debug)]
pub(super) struct Step {
    pub change: Change,
    pub part: Part,
    pub removes: bool,
    /// What it is exchanged for, at once or not at all.
    pub replaces: Option<RouteMessage>,
    /// Errors that are none.
    tolerates: &'static [i32],
    /// For the log: it cannot do this.
    what: String,
}

impl Step {
    pub fn add(change: Change, part: Part, what: String) -> Step {
        Step { change, part, removes: false, replaces: None, tolerates: THERE, what }
    }

    /// Of something that is there.
    pub fn alter(change: Change, part: Part, what: String) -> Step {
        Step { change, part, removes: false, replaces: None, tolerates: &[], what }
    }

    pub fn remove(message: RouteNetlinkMessage, part: Part, what: String) -> Step {
        Step { change: (message, 0), part, removes: true, replaces: None, tolerates: GONE, what }
    }

    fn tolerates(&self, e: &io::Error) -> bool {
        e.raw_os_error().is_some_and(|code| self.tolerates.contains(&code))
    }
}

#[derive(Debug, Default)]
pub(super) struct Steps(Vec<Step>);

impl Steps {
    pub fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &Step> {
        self.0.iter()
    }

    /// Takes all of them. Returns those that were in vain, each with a sentence about why, unless a later one did the same.
    pub fn apply(self, netlink: &mut Netlink) -> Vec<(Step, String)> {
        let changes: Vec<Change> = self.0.iter().map(|step| step.change.clone()).collect();
        let outcome = match netlink.apply(&changes) {
            Ok(outcome) => outcome,
            Err(e) => {
                let why = format!("cannot speak netlink: {e}");
                return self.0.into_iter().map(|step| (step, why.clone())).collect();
            }
        };
        let mut failed: Vec<(Step, String)> = Vec::new();
        for (step, result) in self.0.into_iter().zip(outcome) {
            match result {
                Err(e) if !step.tolerates(&e) => {
                    let why = format!("cannot {}: {e}", step.what);
                    failed.push((step, why));
                }
                // Others may have been tolerated because of what is in the way.
                Ok(()) => failed.retain(|(other, _)| (&other.part, other.removes) != (&step.part, step.removes)),
                Err(_) => {}
            }
        }
        failed
    }
}

/// The guest may have been quicker, one way or the other; and it may have no IPv6.
const THERE: &[i32] = &[libc::EEXIST, libc::EACCES, libc::EOPNOTSUPP, libc::EAFNOSUPPORT];
const GONE: &[i32] = &[libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENODEV, libc::EAFNOSUPPORT];
