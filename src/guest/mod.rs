//! What an engine may know of the guest side: frames that came, slots for frames that go, whose MAC is whose; and what
//! engines have in common on that side: ICMP errors, and the reassembly of fragments before them.
//!
//! No I/O here: frames leave through [`ToGuest`], which a link implements. System calls: none.

mod copies;
pub mod errors;
mod facts;
mod frame;
mod l2;
pub mod mock;
mod neighbours;
pub mod reassembly;
mod sent;
mod slot;

pub use copies::Copies;
pub use errors::IcmpErrors;
pub use facts::Facts;
pub use frame::{FRAME_PIECES, Frame};
pub use l2::L2;
pub use neighbours::Neighbours;
pub use sent::{COMMON_MTU, SentHeader, send_fields};
pub use slot::{Areas, Caps, Fill, Lane, LinkFull, PIECES_MAX, Reservation, Room, SLOTS_MAX, ToGuest, counted};
