//! What an engine may know of the guest side: frames that came, slots for frames that go, whose MAC is whose. No I/O.

pub mod errors;
mod facts;
mod frame;
mod l2;
pub mod mock;
pub mod reassembly;
mod sent;
mod slot;

pub use errors::IcmpErrors;
pub use facts::Facts;
pub use frame::Frame;
pub use l2::L2;
pub use sent::{SentHeader, send_fields};
pub use slot::{Caps, LinkFull, Reservation, SLOTS_MAX, ToGuest, counted};
