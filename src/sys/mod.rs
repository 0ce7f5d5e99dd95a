//! The kernel, typed: the only place (beside guest-memory files) that holds `unsafe`. Functions return `io::Result` with
//! the kernel's errno and do one thing each.

pub mod caps;
pub mod dgram;
pub mod errqueue;
pub mod fdpass;
pub mod fields;
pub mod iov;
pub mod netlink;
pub mod netns;
pub mod pidfd;
pub mod process;
pub mod signal;
pub mod socket;
pub mod tap;
pub mod tun;
