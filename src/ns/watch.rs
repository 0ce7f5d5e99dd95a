//! Noticing that a namespace is gone.

use std::os::fd::BorrowedFd;
use std::time::Duration;

/// To be registered with the event loop for reading, or polled at [`Watch::period`].
#[derive(Debug)]
pub struct Watch {}

impl Watch {
    /// What becomes readable; `None`: nothing does.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// How often to call [`Watch::is_gone`] without an event; `None`: events suffice.
    pub fn period(&self) -> Option<Duration> {
        None
    }

    /// Takes pending events and looks. To be called at each event and each period.
    pub fn is_gone(&mut self) -> bool {
        false
    }
}
