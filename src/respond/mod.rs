//! Answers for others on a link, and tells where they are.

mod announce;
mod announced;
mod args;
pub mod core;
mod desk;
pub mod engine;
pub mod frames;
pub mod http;
mod kernel;
mod limit;
pub mod links;
pub mod ndppd;
pub mod reason;
pub mod rules;
mod run;
mod sessions;
mod sockets;
mod start;
#[cfg(test)]
mod testing;
mod unasked;

pub use announce::main as announce;
pub use args::{Announce, Respond};
pub use start::main as respond;

/// Their command lines, for completion.
pub fn commands() -> [clap::Command; 2] {
    use clap::CommandFactory;
    [args::Respond::command(), args::Announce::command()]
}

/// Why a link cannot be used.
fn no_ethernet(name: &str) -> String {
    format!("'{name}' is no Ethernet interface: it has no MAC to announce")
}

const CANNOT_OPEN: &str = "cannot open a packet socket; it takes CAP_NET_RAW, which root has";
