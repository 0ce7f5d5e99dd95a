//! Flows: their keys, the table that owns them, timers and the run queue. Knows nothing of protocols.

mod key;
mod ready;
mod table;
mod wheel;

pub use key::{FlowKey, KeySecret};
pub use ready::{Pending, Ready};
pub use table::{Id, Table};
pub use wheel::Wheel;
