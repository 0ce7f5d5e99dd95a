//! Forwarding policy: which host endpoint a guest's packet means, and which source a guest sees. Pure.

mod nat;

pub use nat::{Nat, Outbound};

/// The forwarded transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proto {
    Tcp,
    Udp,
}
