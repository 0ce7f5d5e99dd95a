//! Links to the guest: where frames come from and go to. A link implements [`crate::guest::ToGuest`] for the engines and
//! fills a [`Batch`] for the event loop.
//!
//! *From the guest*: one pass reads frames into private memory until the queue is empty, the batch is full, or as many
//! bytes have come as the cache holds; what was not read waits in the kernel's own queue. *To the guest*: a [`Tap`] takes
//! headers and payload frame by frame and queues nothing; a [`Socket`] gathers them and sends many in one call; a [`Vhost`]
//! has payload received into the guest's own memory; a [`Memory`] keeps them for the program that it is a part of. One that takes no more says so at once ([`crate::guest::LinkFull`],
//! [`crate::guest::Room`]) and later, by an event, when it does. A frame that is refused for another reason is lost as on a
//! wire. Captures record what crosses this line: that of the
//! command line ends at its first failure, for others see [`recording`].
//!
//! Limits: [`FRAMES`] a pass; frames of up to 64 KiB; 1 MiB for the batch and payload on its way out: 1 MiB too.
//!
//! System calls. Tap: read (frames from the guest), writev (frames to it), ioctl (`TUNSETPERSIST`, once, at the end). Socket:
//! accept4, getsockopt (`SO_PEERCRED`), setsockopt (`SO_SNDBUF`), poll (whether a client is still there), recvfrom and sendmsg
//! (stream), recvmmsg and sendmmsg (messages), close. vhost-user: accept4, getsockopt, poll, recvmsg and sendmsg
//! (requests), mmap, munmap and fstat (memory), fcntl and write (notifications), close. All: openat (once), write (capture
//! file).

mod any;
mod batch;
mod capture;
mod door;
mod framing;
mod memory;
mod outbox;
pub mod recording;
mod socket;
mod tap;
mod tee;
mod trace;
mod vhost;

pub use any::{Input, Link};
pub use batch::{Batch, FRAMES, ROOMS};
pub use capture::Capture;
pub use door::{Accepted, Door};
pub use memory::Memory;
pub use socket::{Gone, Socket};
pub use tap::Tap;
pub use tee::Tee;
pub use vhost::{Card, Rings, Talk, Vhost, Watch};
