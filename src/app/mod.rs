//! Wires the house together. Alone sees the whole configuration, alone polls; holds no logic of its own.
//!
//! System calls, at start: openat, read, statx, getdents64, fcntl, close (`/proc`, `/dev/null`, inherited descriptors),
//! prlimit64, getrandom, pipe2, clone (fork), setsid, dup2, wait4 (background), rt_sigprocmask, rt_sigaction, signalfd4,
//! epoll_create1, write (pid file, readiness, summary), bind (source addresses), poll (ports that a predecessor gives
//! back). At run time: epoll_wait, epoll_ctl, read (signals), poll (the caller's end), getsockname (clients of listeners),
//! setsockopt (`SO_LINGER`, clients that are refused), close.

mod activation;
mod api;
mod caller;
mod captures;
mod check;
mod control;
mod crew;
mod desk;
pub mod embed;
mod engine;
mod follow;
mod from_guest;
mod from_host;
mod links;
mod local;
mod machine;
mod names;
mod place;
mod plan;
mod plug;
mod ports;
mod requests;
mod rings;
mod rules;
mod share;
mod start;
mod summary;
mod supervise;
mod tables;
mod teamwork;
mod waiting;
mod watchdog;
mod workers;

pub use check::check;
pub use crew::Seat;
pub use engine::{Common, Engine, Next, Parts, Protocols};
pub use follow::Following;
pub use ports::{Forwarding, Namespace};
pub use rules::ephemeral_ports;
pub use start::start;
pub use workers::Recruit;
