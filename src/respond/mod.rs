//! Answers for others on a link, and tells where they are.

mod announce;
mod args;
mod core;
mod desk;
mod frames;
mod kernel;
mod limit;
mod links;
mod ndppd;
mod reason;
mod rules;
mod run;
mod sessions;
mod sockets;
mod start;
#[cfg(test)]
mod testing;

pub use announce::main as announce;
pub use start::main as respond;

/// Why a link cannot be used.
fn no_ethernet(name: &str) -> String {
    format!("'{name}' is no Ethernet interface: it has no MAC to announce")
}

const CANNOT_OPEN: &str = "cannot open a packet socket; it takes CAP_NET_RAW, which root has";
