//! Links to the guest: where frames come from and go to. A link implements [`crate::guest::ToGuest`] for the engines and
//! fills a [`Batch`] for the event loop.

mod batch;
mod capture;
mod tap;

pub use batch::{Batch, FRAMES};
pub use capture::Capture;
pub use tap::{Input, Tap};
