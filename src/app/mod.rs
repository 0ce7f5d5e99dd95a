//! Wires the house together. Alone sees the whole configuration, alone polls; holds no logic of its own.

mod engine;
mod from_guest;
mod from_host;

pub use engine::{Engine, Parts};
