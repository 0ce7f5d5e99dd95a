//! Links to the guest: where frames come from and go to. A link implements [`crate::guest::ToGuest`] for the engines and
//! fills a [`Batch`] for the event loop.
//!
//! *From the guest*: one pass reads frames into private memory until the queue is empty, the batch is full, or as many
//! bytes have come as the cache holds; what was not read waits in the device's own queue. *To the guest*: headers and
//! payload go out in one call, frame by frame. A device that takes no more says so at once ([`crate::guest::LinkFull`]) and
//! later, by an event, when it does; nothing is queued here. A frame that the device refuses for another reason is lost as
//! on a wire. The capture, if there is one, records what crosses this line, and ends at its first failure.
//!
//! Limits: [`FRAMES`] a pass; frames of up to 64 KiB, which take 2 MiB for the batch and 1 MiB for payload on its way out.
//!
//! System calls: read (frames from the guest), writev (frames to it), ioctl (`TUNSETPERSIST`, once, at the end); openat
//! (once), write (capture file).

mod any;
mod batch;
mod capture;
mod tap;
mod trace;

pub use any::Link;
pub use batch::{Batch, FRAMES};
pub use capture::Capture;
pub use tap::{Input, Tap};
