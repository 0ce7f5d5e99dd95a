//! Flows: their keys, the table that owns them, their timers, and what an event says about one. Knows nothing of protocols.
//!
//! A guest chooses the keys, so the index hashes them with a secret ([`KeySecret`]) and the table is bounded: when it is
//! full, [`Table::oldest`] names the flow unused for longest, and the engine decides whether that makes room. An [`Id`] has
//! a generation, so that an event or a timer of a flow that is gone finds nothing. Timers are never cancelled.
//!
//! Where several workers have flows, each finds in the [`Directory`] who has one that is not its own.
//!
//! System calls: getrandom (a secret, once), futex (the directory's locks).

mod belief;
mod directory;
mod key;
mod ledger;
mod ready;
mod slab;
mod table;
mod view;
mod wheel;

pub use belief::{Awaited, Belief};
pub use directory::{Directory, Share};
pub use key::{FlowKey, KeySecret};
pub use ledger::{Ledger, Passed, Via};
pub use ready::{Pending, Ready};
pub use slab::Slab;
pub use table::{Heir, Id, Table};
pub use view::{Amount, Protocol, Sight, Traffic, View};
pub use wheel::Wheel;
