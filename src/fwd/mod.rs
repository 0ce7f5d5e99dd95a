//! Forwarding policy: which host endpoint a guest's packet means, and which source a guest sees. Pure.
//! System calls: none.

mod local;
mod nat;
pub mod ports;

pub use local::Local;
pub use nat::{Former, Nat, Outbound};
pub use ports::Rule;

/// The forwarded transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proto {
    Tcp,
    Udp,
}

/// One of the two namespaces that are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Host,
    Guest,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Host => Side::Guest,
            Side::Guest => Side::Host,
        }
    }
}
