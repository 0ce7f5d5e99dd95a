//! The kernel, typed: the only place (beside guest-memory files) that holds `unsafe`. Functions return `io::Result` with
//! the kernel's errno and do one thing each.

pub mod iov;
pub mod socket;
pub mod tap;
