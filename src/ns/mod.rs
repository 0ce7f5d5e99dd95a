//! The guest's network namespace: making one for a command, entering one that exists, and noticing that it is gone.
//!
//! Goals: no privilege beyond what a user namespace gives; everything inside is set up by one netlink batch; when our
//! process dies, by whatever signal, everything inside dies with it; start-up is bounded by what the kernel needs to make
//! the namespaces.
//!
//! **`spelt run`** (`spawn`): one clone into new user, network, PID, mount, IPC and UTS namespaces. The child is PID 1
//! inside: it writes its own id maps (`0 uid 1`; a process may map its own id), makes and configures the tap, sends the
//! descriptors of its queues back, waits for the word to go and forks the command. From then on it reaps orphans, passes signals on
//! and ends with the command's status. Its parent-death signal is SIGKILL, and PID 1's end is the end of its namespace. A
//! parent that dies before that signal is armed is noticed as end-of-file instead of the word to go.
//!
//! **`spelt attach`** ([`Namespace`]): the namespace files are opened first of all, while paths and descriptors mean what
//! the caller meant. A short-lived child joins the owning user namespace (unless it is ours), then the network namespace,
//! does the same set-up with the same function, sends the descriptors back and exits. This process itself stays where the
//! host's network is.
//!
//! **[`Watch`]**: our own open tap keeps a network namespace alive, so its device tells nothing. The name is watched
//! instead: a process by pidfd, a bind mount or `ip netns` name by inotify on its directory, anything else by looking again
//! every second through a kept directory descriptor. All work after the sandbox has taken the file system away.
//!
//! **[`Broker`]**: a process that stays inside and makes sockets there, for those who talk to the guest's own sockets
//! without a packet in between.
//!
//! **[`Upkeep`]**: changes the interface when the host's network has changed; with a command by way of init, else by the child
//! that has made it.
//!
//! All children are forks of a process that must have one thread.
//!
//! System calls, only at set-up: clone3, clone (fork), close_range, prctl, rt_sigprocmask, rt_sigaction, rt_sigtimedwait,
//! pidfd_open, inotify_init1, inotify_add_watch, fstat, fstatfs, statx, readlink, openat, read, write, close, geteuid,
//! getegid, mount, umount2, uname, sethostname, socketpair, sendmsg, recvmsg, ioctl (`TUNSETIFF`, `TUNSETOFFLOAD`,
//! `SIOCGIFINDEX`, `SIOCGIFHWADDR`, `NS_GET_USERNS`, `NS_GET_NSTYPE`), setns, netlink as in `host`, poll, prlimit64, execve,
//! setsockopt (`SO_RCVTIMEO`), wait4, kill, exit_group. At run time: read (inotify), newfstatat (watch), poll, wait4,
//! sendmsg, recvmsg (the broker's replies), pidfd_send_signal; of the broker: recvmsg, sendmsg, socket, setsockopt, bind,
//! listen, ioctl (`SIOCGIFINDEX`), close, at its start dup2; of upkeep: see there.

mod attach;
pub mod broker;
mod configure;
mod cover;
mod device;
mod init;
mod report;
mod spawn;
pub mod upkeep;
mod watch;

use std::os::fd::OwnedFd;

use crate::base::{Addr, Mac, Prefix, Route};
pub use crate::sys::tun::Offloads;

pub use attach::{Namespace, Target, UserNamespace};
pub use broker::Broker;
pub use spawn::{Child, Spawn, spawn};
pub use upkeep::Upkeep;
pub use watch::Watch;

/// The interface to make in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// 1–15 bytes.
    pub name: String,
    /// `None`: the kernel's random one.
    pub mac: Option<Mac>,
    /// IP MTU, bytes; `None`: the kernel's default.
    pub mtu: Option<u32>,
    /// Queues of the tap, 1 or more: it has a descriptor for each.
    pub queues: u8,
    /// One is enough where the interface exists and has no more.
    pub fewer_will_do: bool,
    /// Frames that may wait in a queue for us to read them: enough for every window we advertise.
    pub queue_frames: u32,
    /// Make no interface at all: only `lo` comes up.
    pub loopback_only: bool,
    /// Bring it up with addresses and routes. Without: only `lo` comes up, the tap stays down.
    pub configure: bool,
    pub ipv6: bool,
    pub addrs: Vec<Prefix>,
    /// In any order. A gateway outside every prefix counts as on the link.
    pub routes: Vec<Route>,
}

impl Interface {
    pub const QUEUE_FRAMES: u32 = 16384;
}

/// The guest link's host end.
#[derive(Debug)]
pub struct Tap {
    /// Non-blocking, one for each queue. Empty: there is no tap, see [`Interface::loopback_only`].
    pub fds: Vec<OwnedFd>,
    pub name: String,
    /// The guest's.
    pub mac: Mac,
    pub offloads: Offloads,
    /// The guest's IPv6 link-local address, if we configured one.
    pub link_local: Option<Addr>,
    /// What could not be done and is no reason to give up; one sentence each.
    pub warnings: Vec<String>,
    /// How to change it, if that was asked for.
    pub upkeep: Option<Upkeep>,
}

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A sentence made where the fault happened, possibly in the child.
    #[error("{0}")]
    Failed(String),
    #[error("{what}: {cause}")]
    Io { what: String, cause: std::io::Error },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |cause| Error::Io { what, cause }
    }
}
