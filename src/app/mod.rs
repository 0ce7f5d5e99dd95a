//! Wires the house together. Alone sees the whole configuration, alone polls; holds no logic of its own.

mod engine;
mod from_guest;
mod from_host;
mod names;
mod plan;
mod start;
mod summary;
mod supervise;

pub use engine::{Engine, Next, Parts, Protocols};
pub use start::start;
