//! Which system calls are allowed while we run, with which arguments, and why: the union of what the modules list beside their
//! code, and of what the language and the C library do by themselves.
//!
//! A test runs all of it under a tracer and fails for a call that it does not see, so that none stays here that is not needed;
//! for a call that it cannot provoke, `rare` says when it is made. A few calls fail instead of ending the process: those that
//! libraries make on their own and do well without. Not here, on purpose: whatever opens files by name, makes
//! processes or threads, executes programs, changes namespaces or credentials, and executable memory.

/// Who is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role(u16);

impl Role {
    /// Serves a namespace with a command of ours.
    pub const RUN: Role = Role(1);
    /// Serves another's namespace.
    pub const ATTACH: Role = Role(2);
    /// Serves a virtual machine by a socket.
    pub const MACHINE: Role = Role(4);
    /// Serves a virtual machine by its memory.
    pub const CARD: Role = Role(8);
    /// Makes sockets in a namespace.
    pub const BROKER: Role = Role(16);
    /// Changes the interface in a namespace.
    pub const UPKEEP: Role = Role(32);
    /// Reads a file whenever it changes.
    pub const READER: Role = Role(64);
    /// Answers neighbours, and carries no traffic.
    pub const RESPONDER: Role = Role(128);
    /// Asks a container engine, for a responder.
    pub const FOLLOWER: Role = Role(256);

    pub const NAMESPACE: Role = Role(Role::RUN.0 | Role::ATTACH.0);
    pub const ENGINE: Role = Role(Role::NAMESPACE.0 | Role::MACHINE.0 | Role::CARD.0);
    /// Those who help whoever serves a guest.
    pub const HELPERS: Role = Role(Role::BROKER.0 | Role::UPKEEP.0 | Role::READER.0);
    pub const ALL: Role = Role(Role::ENGINE.0 | Role::HELPERS.0 | Role::RESPONDER.0 | Role::FOLLOWER.0);

    pub fn contains(self, one: Role) -> bool {
        self.0 & one.0 == one.0
    }

    /// One by one.
    pub fn all() -> impl Iterator<Item = Role> {
        [
            Role::RUN,
            Role::ATTACH,
            Role::MACHINE,
            Role::CARD,
            Role::BROKER,
            Role::UPKEEP,
            Role::READER,
            Role::RESPONDER,
            Role::FOLLOWER,
        ]
        .into_iter()
    }
}

/// One that is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: i64,
    name: &'static str,
    pub roles: Role,
    /// Only if all tests of one of these hold; empty: always.
    pub only: &'static [&'static [Test]],
    pub why: &'static str,
    /// When it is made, if no test can see it.
    pub rare: Option<&'static str>,
    /// It may be tried, and has this error.
    pub refused: Option<i32>,
}

impl Call {
    pub fn name(&self) -> &'static str {
        self.name.trim_start_matches("SYS_")
    }
}

/// Of the argument with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    Is(u8, u32),
    /// Index, mask, and what is left under it.
    Bits(u8, u32, u32),
    /// It is this process.
    Own(u8),
}

/// All of them, each once.
pub fn all() -> impl Iterator<Item = &'static Call> {
    COMMON.iter().chain(MACHINES).chain(UNOPTIMIZED)
}

macro_rules! calls {
    ($($name:ident, $roles:expr, $only:expr, $why:literal
        $(, rare: $rare:literal)? $(, refused: $errno:expr)?;)*) => { &[$(Call {
        number: libc::$name,
        name: stringify!($name),
        roles: $roles,
        only: $only,
        why: $why,
        rare: [$(Some($rare),)? None][0],
        refused: [$(Some($errno),)? None][0],
    }),*] };
}

const ALWAYS: &[&[Test]] = &[];
const ENGINE: Role = Role::ENGINE;
const NAMESPACE: Role = Role::NAMESPACE;
const RUN: Role = Role::RUN;
const VM: Role = Role(Role::MACHINE.0 | Role::CARD.0);
const NOT_RUN: Role = Role(Role::ENGINE.0 & !Role::RUN.0);
const NOT_CARD: Role = Role(Role::ALL.0 & !Role::CARD.0);
const ALL: Role = Role::ALL;
const HELPERS: Role = Role::HELPERS;
const READER: Role = Role::READER;
const UPKEEP: Role = Role::UPKEEP;
const RESPONDER: Role = Role::RESPONDER;
const FOLLOWER: Role = Role::FOLLOWER;
/// What has traffic, or sockets for it.
const TRAFFIC: Role = Role(Role::ENGINE.0 | Role::BROKER.0);
const BOUND: Role = Role(TRAFFIC.0 | Role::RESPONDER.0);
/// What has a log and a control socket.
const SERVING: Role = Role(Role::ENGINE.0 | Role::RESPONDER.0);
/// All that are asked for something, but the follower, who reads streams alone.
const ASKED: Role = Role(BOUND.0 | Role::UPKEEP.0);
/// All that have a channel or flows.
const TELLING: Role = Role(Role::ENGINE.0 | Role::HELPERS.0);
const CLOSING: Role = Role(Role::ALL.0 & !Role::UPKEEP.0);
/// Small processes that close what they have opened.
const SMALL: Role = Role(Role::BROKER.0 | Role::READER.0 | Role::RESPONDER.0 | Role::FOLLOWER.0);

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
const COMMON: &[Call] = calls!(
    // Bytes and frames.
    SYS_read, SERVING, ALWAYS, "frames of a tap, signals, events, what is left in pipes";
    SYS_write, SERVING, ALWAYS, "messages, captures, wake-ups, readiness, last words";
    SYS_write, HELPERS, ALWAYS, "last words", rare: "after a bug";
    SYS_writev, NAMESPACE, ALWAYS, "frames to a tap";
    SYS_recvmsg, ASKED, ALWAYS, "data of connections, error queues, requests of hypervisors and clients, the broker's channel";
    SYS_sendmsg, TELLING, ALWAYS, "data of connections, frames and replies to hypervisors, the broker's channel";
    SYS_recvfrom, SERVING, ALWAYS, "acknowledged data, frames of hypervisors, netlink";
    SYS_sendto, SERVING, ALWAYS, "system log, service manager, netlink, answers at the control socket";
    SYS_recvfrom, UPKEEP, ALWAYS, "netlink";
    SYS_sendto, UPKEEP, ALWAYS, "netlink";
    SYS_recvmmsg, SERVING, ALWAYS, "datagrams";
    SYS_sendmmsg, SERVING, ALWAYS, "datagrams";
    SYS_splice, NAMESPACE, ALWAYS, "connections of loopbacks";
    SYS_pwrite64, ENGINE, ALWAYS, "log file";
    SYS_pread64, ENGINE, ALWAYS, "log file whose oldest part goes";
    SYS_ftruncate, ENGINE, ALWAYS, "log file whose oldest part has gone, capture that ends within a frame";
    // Waiting.
    SYS_epoll_pwait, SERVING, ALWAYS, "events", rare: "what musl and processors of Arm have for epoll_wait";
    SYS_epoll_ctl, ENGINE, ALWAYS, "sockets of flows";
    SYS_futex, ENGINE, ALWAYS, "locks, and the end of threads";
    SYS_restart_syscall, ALL, ALWAYS, "waiting goes on after a stop", rare: "the kernel makes it, if it hits";
    SYS_sched_yield, ENGINE, ALWAYS, "messages between workers", rare: "if two workers send at once";
    SYS_clock_gettime, SERVING, ALWAYS, "the time", rare: "where the kernel's clock cannot be read without a call";
    // Sockets.
    SYS_socket, ENGINE, SOCKETS, "flows and listeners; the system log that comes back; indexes of devices";
    SYS_socket, Role::BROKER, SOCKETS_INSIDE, "sockets inside; who listens there";
    SYS_connect, ENGINE, ALWAYS, "flows, the system log";
    SYS_bind, BOUND, ALWAYS, "flows and listeners";
    SYS_listen, TRAFFIC, ALWAYS, "listeners";
    SYS_accept4, SERVING, ALWAYS, "clients of listeners, hypervisors, the control socket";
    SYS_shutdown, ENGINE, ALWAYS, "half-closed connections";
    SYS_getsockopt, SERVING, ALWAYS, "room in send buffers, errors, path MTU, who a client is";
    SYS_setsockopt, ENGINE, OPTIONS, "how sockets of flows and listeners behave";
    SYS_setsockopt, Role::BROKER, OPTIONS_INSIDE, "what is bound inside";
    SYS_getsockname, ENGINE, ALWAYS, "what clients and listeners are bound to";
    SYS_getpeername, ENGINE, ALWAYS, "the ends of flows, for who asks; whether a target has answered",
        rare: "over the control socket, or if a client has gone";
    SYS_fcntl, ENGINE, DESCRIPTORS, "not to wait; sizes of pipes; one descriptor more";
    SYS_ioctl, NAMESPACE, REQUESTS_OF_NAMESPACES, "a tap stays; not to wait; indexes of devices; the terminal";
    SYS_ioctl, VM, REQUESTS, "not to wait; indexes of devices";
    SYS_ioctl, Role::BROKER, INDEX, "indexes of devices", rare: "for listeners at link-local addresses";
    SYS_pipe2, NAMESPACE, ALWAYS, "connections of loopbacks";
    SYS_close, CLOSING, ALWAYS, "everything";
    SYS_close, UPKEEP, ALWAYS, "descriptors that nobody has asked for", rare: "if who serves the guest sends some";
    SYS_dup3, NOT_RUN, ALWAYS, "letting go of the terminal", rare: "what newer processors have for dup2";
    SYS_recvfrom, FOLLOWER, ALWAYS, "answers of the engine";
    SYS_read, FOLLOWER, ALWAYS, "the same", rare: "some C libraries read sockets by it";
    SYS_sendto, FOLLOWER, ALWAYS, "requests; addresses and messages for the responder";
    SYS_write, FOLLOWER, ALWAYS, "requests, last words", rare: "after a bug, or if Rust's library writes to sockets by it";
    SYS_socket, FOLLOWER, &[LOCAL_STREAM], "to the engine";
    SYS_connect, FOLLOWER, ALWAYS, "the same";
    SYS_setsockopt, FOLLOWER, TIMES, "not to wait for an engine for ever";
    SYS_mmap, FOLLOWER, NOT_EXECUTABLE, "memory", rare: "if a network has many containers";
    SYS_munmap, FOLLOWER, ALWAYS, "memory that goes back", rare: "if a network has many containers";
    SYS_mremap, FOLLOWER, ALWAYS, "memory", rare: "if a network has many containers";
    SYS_brk, FOLLOWER, ALWAYS, "memory", rare: "if a network has many containers";
    SYS_clock_gettime, FOLLOWER, ALWAYS, "the time", rare: "where the kernel's clock cannot be read without a call";
    SYS_futex, FOLLOWER, ALWAYS, "locks", rare: "there is one thread";
    SYS_getrandom, FOLLOWER, ALWAYS, "secrets of hash tables", rare: "if they were not needed before";
    SYS_getpid, FOLLOWER, ALWAYS, "abort", rare: "after a bug";
    SYS_rt_sigprocmask, FOLLOWER, ALWAYS, "abort", rare: "after a bug";
    SYS_exit_group, FOLLOWER, ALWAYS, "the end";
    SYS_epoll_ctl, RESPONDER, ALWAYS, "clients of the control socket";
    SYS_socket, RESPONDER, &[LOCAL], "the system log that comes back", rare: "if the system log is started anew";
    SYS_connect, RESPONDER, ALWAYS, "the same", rare: "if the system log is started anew";
    SYS_setsockopt, RESPONDER, GROUPS, "groups of a link that has come back", rare: "if an uplink is made anew";
    SYS_ioctl, RESPONDER, &[NOT_TO_WAIT], "not to wait";
    // Memory. None of it can be executed.
    SYS_mmap, ENGINE, NOT_EXECUTABLE, "memory of ours and of hypervisors";
    SYS_munmap, ENGINE, ALWAYS, "memory that goes back";
    SYS_madvise, ENGINE, ALWAYS, "memory of threads that end";
    SYS_mprotect, ENGINE, NOT_EXECUTABLE, "growth of a thread's memory";
    SYS_mremap, SERVING, ALWAYS, "large buffers that grow", rare: "if the log or a list grows large";
    SYS_mremap, UPKEEP, ALWAYS, "large buffers that grow", rare: "if there are a thousand routes";
    SYS_brk, SERVING, ALWAYS, "growth of the first thread's memory", rare: "if there is room behind it";
    SYS_mmap, HELPERS, NOT_EXECUTABLE, "memory", rare: "it has enough from the start";
    SYS_munmap, HELPERS, ALWAYS, "memory that goes back", rare: "it has enough from the start";
    SYS_mprotect, HELPERS, NOT_EXECUTABLE, "memory", rare: "it has enough from the start";
    SYS_brk, HELPERS, ALWAYS, "memory", rare: "it has enough from the start";
    SYS_getrandom, ENGINE, ALWAYS, "secrets of hash tables";
    SYS_mmap, RESPONDER, NOT_EXECUTABLE, "memory", rare: "if many targets are asked for";
    SYS_munmap, RESPONDER, ALWAYS, "memory that goes back", rare: "if many targets are asked for";
    SYS_madvise, RESPONDER, CODE, "code that only the start needs; large pages";
    SYS_madvise, HELPERS, LARGE_PAGES, "memory in large pages", rare: "if the C library is told to (glibc.malloc.hugetlb)";
    SYS_madvise, FOLLOWER, LARGE_PAGES, "the same", rare: "if the C library is told to (glibc.malloc.hugetlb)";
    SYS_prctl, ALL, NAMES, "names of memory in /proc", rare: "if the C library is told to (glibc.mem.decorate_maps)",
        refused: libc::EINVAL;
    SYS_getrandom, RESPONDER, ALWAYS, "secrets of hash tables", rare: "if they were not needed before";
    SYS_futex, RESPONDER, ALWAYS, "locks", rare: "there is one thread";
    // Files that are open.
    SYS_pwrite64, RESPONDER, ALWAYS, "log file", rare: "if there is one";
    SYS_pread64, RESPONDER, ALWAYS, "log file whose oldest part goes", rare: "if there is one";
    SYS_ftruncate, RESPONDER, ALWAYS, "log file whose oldest part has gone", rare: "if there is one";
    SYS_statx, RESPONDER, ALWAYS, "length of the log file", rare: "if there is one";
    SYS_fstat, SERVING, ALWAYS, "what others send us; where the log ends", rare: "some C libraries have newfstatat";
    SYS_newfstatat, ENGINE, ALWAYS, "the same; whether a namespace's name is there";
    SYS_statx, ENGINE, ALWAYS, "length of the log file, of a capture and of memory";
    SYS_openat, SERVING, ALWAYS, "processors that C libraries look for in /sys", rare: "if threads compete for memory",
        refused: libc::ENOENT;
    SYS_readlinkat, SERVING, ALWAYS, "the program's file, for a backtrace", rare: "after a bug", refused: libc::ENOENT;
    SYS_getcwd, SERVING, ALWAYS, "where the program is, for a backtrace", rare: "after a bug", refused: libc::ENOENT;
    SYS_openat, READER, TO_READ, "resolv.conf";
    SYS_read, READER, ALWAYS, "resolv.conf, and what happens to it";
    SYS_inotify_add_watch, READER, ALWAYS, "a file that is another by now";
    SYS_inotify_rm_watch, READER, ALWAYS, "a link that leads elsewhere", rare: "if resolv.conf becomes another link";
    SYS_clock_gettime, READER, ALWAYS, "the time", rare: "where the kernel's clock cannot be read without a call";
    SYS_readlinkat, READER, ALWAYS, "where resolv.conf leads", rare: "what newer processors have for readlink";
    // Processes.
    SYS_sched_getaffinity, SERVING, ALWAYS, "processors, when not found in /sys", rare: "if threads compete for memory";
    SYS_wait4, NAMESPACE, ALWAYS, "how the command or the broker ended";
    SYS_wait4, VM, ALWAYS, "the end of the reader", rare: "if it ends before us";
    SYS_pidfd_send_signal, NAMESPACE, ALWAYS, "signals to the command, the broker's end";
    SYS_kill, RUN, PROBE, "whether a process group exists", rare: "if the command had the terminal";
    SYS_getpid, ENGINE, ALWAYS, "messages of the system log; abort";
    SYS_getpid, HELPERS, ALWAYS, "abort", rare: "after a bug";
    SYS_gettid, ALL, ALWAYS, "abort", rare: "after a bug";
    SYS_tgkill, ALL, ABORT, "abort", rare: "after a bug";
    SYS_tkill, ALL, ABORT_OF_MUSL, "abort", rare: "after a bug";
    SYS_rt_sigprocmask, ENGINE, ALWAYS, "the terminal's foreground; abort; the end of threads";
    SYS_rt_sigprocmask, HELPERS, ALWAYS, "abort", rare: "after a bug";
    SYS_rt_sigprocmask, RESPONDER, ALWAYS, "abort", rare: "after a bug";
    SYS_getpid, RESPONDER, ALWAYS, "messages of the system log; abort", rare: "if there is a system log";
    SYS_sigaltstack, RESPONDER, ALWAYS, "the end of the first thread", rare: "as the C library likes it";
    SYS_rt_sigaction, Role::CARD, FAULTS, "a hypervisor's memory may go; other faults; abort";
    SYS_rt_sigaction, NOT_CARD, FAULTS, "faults that are not ours to handle; abort", rare: "after a bug";
    SYS_rt_sigreturn, ENGINE, ALWAYS, "memory of a hypervisor that has gone", rare: "if a hypervisor breaks its word";
    SYS_sigaltstack, ENGINE, ALWAYS, "the end of threads";
    SYS_exit, ENGINE, ALWAYS, "the end of threads";
    SYS_exit_group, SERVING, ALWAYS, "the end";
    SYS_exit_group, HELPERS, ALWAYS, "the end", rare: "if we are killed before we kill it";
);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const COMMON: &[Call] = &[];

#[cfg(target_arch = "x86_64")]
const MACHINES: &[Call] = calls!(
    SYS_epoll_wait, SERVING, ALWAYS, "events";
    SYS_poll, SERVING, ALWAYS, "standard error, the caller's end, hypervisors that may have gone, captures";
    SYS_poll, FOLLOWER, ALWAYS, "the engine's events, the responder's end";
    SYS_poll, READER, ALWAYS, "events";
    SYS_readlink, READER, ALWAYS, "where resolv.conf leads";
    SYS_dup2, NOT_RUN, ALWAYS, "letting go of the terminal";
    SYS_readlink, SERVING, ALWAYS, "the program's file, for a backtrace", rare: "after a bug", refused: libc::ENOENT;
);
#[cfg(not(target_arch = "x86_64"))]
const MACHINES: &[Call] = calls!(
    SYS_ppoll, SERVING, ALWAYS, "standard error, the caller's end, hypervisors that may have gone, captures";
    SYS_ppoll, FOLLOWER, ALWAYS, "the engine's events, the responder's end";
    SYS_ppoll, READER, ALWAYS, "events";
);

/// Beside what a flow's descriptors need: a build that checks itself asks, before it closes one, whether it is open.
const UNOPTIMIZED: &[Call] = if cfg!(debug_assertions) {
    calls!(
        SYS_fcntl, SMALL, IS_OPEN, "whether what is closed was open";
        SYS_fcntl, UPKEEP, IS_OPEN, "the same", rare: "if who serves the guest sends descriptors";
    )
} else {
    &[]
};

const TYPE: u32 = 0xf;
const STREAM: Test = Test::Bits(1, TYPE, libc::SOCK_STREAM as u32);
const DATAGRAM: Test = Test::Bits(1, TYPE, libc::SOCK_DGRAM as u32);
const V4: Test = Test::Is(0, libc::AF_INET as u32);
const V6: Test = Test::Is(0, libc::AF_INET6 as u32);
const TCP: Test = Test::Is(2, libc::IPPROTO_TCP as u32);
const UDP: Test = Test::Is(2, libc::IPPROTO_UDP as u32);
/// Datagrams only, which no server of a desktop's speaks.
const LOCAL: &[Test] = &[Test::Is(0, libc::AF_UNIX as u32), DATAGRAM, Test::Is(2, 0)];
const SOCKETS: &[&[Test]] = &[
    &[V4, STREAM, TCP],
    &[V6, STREAM, TCP],
    &[V4, DATAGRAM, UDP],
    &[V6, DATAGRAM, UDP],
    &[V4, DATAGRAM, Test::Is(2, libc::IPPROTO_ICMP as u32)],
    &[V6, DATAGRAM, Test::Is(2, libc::IPPROTO_ICMPV6 as u32)],
    LOCAL,
];
const LOCAL_STREAM: &[Test] = &[Test::Is(0, libc::AF_UNIX as u32), STREAM, Test::Is(2, 0)];
const SOCKETS_INSIDE: &[&[Test]] = &[
    &[V4, STREAM, TCP],
    &[V6, STREAM, TCP],
    &[V4, DATAGRAM, UDP],
    &[V6, DATAGRAM, UDP],
    LOCAL,
    &[
        Test::Is(0, libc::AF_NETLINK as u32),
        Test::Bits(1, TYPE, libc::SOCK_RAW as u32),
        Test::Is(2, libc::NETLINK_SOCK_DIAG as u32),
    ],
];

const fn general(name: i32) -> [Test; 2] {
    option(libc::SOL_SOCKET, name)
}

const fn v4(name: i32) -> [Test; 2] {
    option(libc::IPPROTO_IP, name)
}

const fn v6(name: i32) -> [Test; 2] {
    option(libc::IPPROTO_IPV6, name)
}

const fn option(level: i32, name: i32) -> [Test; 2] {
    [Test::Is(1, level as u32), Test::Is(2, name as u32)]
}

/// Those of each connection first. Not among them: filters and programs (`SO_ATTACH_*`), memberships, tables of netfilter.
const OPTIONS: &[&[Test]] = &[
    &general(libc::SO_PEEK_OFF),
    &option(libc::IPPROTO_TCP, libc::TCP_NODELAY),
    &general(libc::SO_KEEPALIVE),
    &general(libc::SO_OOBINLINE),
    &general(libc::SO_LINGER),
    &general(libc::SO_RCVLOWAT),
    &general(libc::SO_REUSEADDR),
    &option(libc::SOL_UDP, libc::UDP_GRO),
    &v4(libc::IP_TTL),
    &v4(libc::IP_MULTICAST_TTL),
    &v4(libc::IP_TOS),
    &v4(libc::IP_MTU_DISCOVER),
    &v4(libc::IP_RECVERR),
    &v4(libc::IP_RECVTTL),
    &v4(libc::IP_RECVTOS),
    &v4(libc::IP_PKTINFO),
    &v4(libc::IP_FREEBIND),
    &v4(libc::IP_MULTICAST_ALL),
    &v6(libc::IPV6_UNICAST_HOPS),
    &v6(libc::IPV6_MULTICAST_HOPS),
    &v6(libc::IPV6_MULTICAST_IF),
    &v6(libc::IPV6_TCLASS),
    &v6(libc::IPV6_MTU_DISCOVER),
    &v6(libc::IPV6_RECVERR),
    &v6(libc::IPV6_RECVHOPLIMIT),
    &v6(libc::IPV6_RECVTCLASS),
    &v6(libc::IPV6_RECVPKTINFO),
    &v6(libc::IPV6_V6ONLY),
    &v6(libc::IPV6_FREEBIND),
    &v6(IPV6_MULTICAST_ALL),
    &general(libc::SO_BINDTODEVICE),
    &general(libc::SO_BROADCAST),
    &general(libc::SO_SNDBUF),
];
const OPTIONS_INSIDE: &[&[Test]] = &[
    &general(libc::SO_REUSEADDR),
    &v6(libc::IPV6_V6ONLY),
    &v4(libc::IP_FREEBIND),
    &v6(libc::IPV6_FREEBIND),
    &general(libc::SO_BINDTODEVICE),
];
/// `PACKET_ADD_MEMBERSHIP`; no filter of packets, which are locked besides.
const GROUPS: &[&[Test]] = &[&option(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP)];
const TIMES: &[&[Test]] = &[&general(libc::SO_RCVTIMEO), &general(libc::SO_SNDTIMEO)];
/// Since 4.20.
const IPV6_MULTICAST_ALL: i32 = 29;

const DESCRIPTORS: &[&[Test]] = &[
    &[Test::Is(1, libc::F_GETFL as u32)],
    &[Test::Is(1, libc::F_SETFL as u32)],
    &[Test::Is(1, libc::F_SETPIPE_SZ as u32)],
    &[Test::Is(1, libc::F_DUPFD_CLOEXEC as u32)],
    #[cfg(debug_assertions)]
    IS_OPEN[0],
];
const IS_OPEN: &[&[Test]] = &[&[Test::Is(1, libc::F_GETFD as u32)]];
/// What a watchdog asks, which only a build that checks itself has.
#[cfg(debug_assertions)]
const QUEUED: &[Test] = &[Test::Is(1, libc::FIONREAD as u32)];
const NOT_TO_WAIT: &[Test] = &[Test::Is(1, libc::FIONBIO as u32)];
const INDEX_OF_NAME: &[Test] = &[Test::Is(1, libc::SIOCGIFINDEX as u32)];
const REQUESTS: &[&[Test]] = &[
    NOT_TO_WAIT,
    INDEX_OF_NAME,
    #[cfg(debug_assertions)]
    QUEUED,
];
const REQUESTS_OF_NAMESPACES: &[&[Test]] = &[
    NOT_TO_WAIT,
    INDEX_OF_NAME,
    &[Test::Is(1, libc::TUNSETPERSIST as u32)],
    &[Test::Is(1, libc::TIOCGPGRP as u32)],
    &[Test::Is(1, libc::TIOCSPGRP as u32)],
    #[cfg(debug_assertions)]
    QUEUED,
];
const INDEX: &[&[Test]] = &[INDEX_OF_NAME];

const NOT_EXECUTABLE: &[&[Test]] = &[&[Test::Bits(2, libc::PROT_EXEC as u32, 0)]];

/// Not to write, nor to make.
const TO_READ: &[&[Test]] = &[&[Test::Bits(2, (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u32, 0)]];

const CODE: &[&[Test]] = &[&[Test::Is(2, libc::MADV_DONTNEED as u32)], LARGE_PAGES[0]];
/// A hint of allocators, where memory grows.
const LARGE_PAGES: &[&[Test]] = &[&[Test::Is(2, libc::MADV_HUGEPAGE as u32)]];
/// A kernel without such names says that there is no such request (`CONFIG_ANON_VMA_NAME`), and nobody asks again.
const NAMES: &[&[Test]] = &[&[Test::Is(0, libc::PR_SET_VMA as u32)]];
const PROBE: &[&[Test]] = &[&[Test::Is(1, 0)]];
const ABORT: &[&[Test]] = &[&[Test::Own(0), Test::Is(2, libc::SIGABRT as u32)]];
const ABORT_OF_MUSL: &[&[Test]] = &[&[Test::Is(1, libc::SIGABRT as u32)]];
const FAULTS: &[&[Test]] =
    &[&[Test::Is(0, libc::SIGABRT as u32)], &[Test::Is(0, libc::SIGSEGV as u32)], &[Test::Is(0, libc::SIGBUS as u32)]];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_role_has_a_call_twice() {
        for role in Role::all() {
            let mut numbers: Vec<i64> = all().filter(|c| c.roles.contains(role)).map(|c| c.number).collect();
            let calls = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), calls, "{role:?}");
        }
    }

    /// The C library may be told to give them, and goes on without.
    #[test]
    fn hints_about_memory_end_nobody() {
        for role in Role::all() {
            let of = |number| all().find(|c| c.number == number && c.roles.contains(role)).unwrap();
            let (large, names) = (of(libc::SYS_madvise), of(libc::SYS_prctl));
            assert!(large.only.is_empty() || large.only.contains(&LARGE_PAGES[0]), "{role:?}");
            assert_eq!((names.only, names.refused), (NAMES, Some(libc::EINVAL)), "{role:?}");
        }
    }

    #[test]
    fn who_asks_an_engine_writes_no_log() {
        let of_logs = [libc::SYS_pwrite64, libc::SYS_pread64, libc::SYS_ftruncate, libc::SYS_statx, libc::SYS_ioctl];
        assert!(all().all(|call| !call.roles.contains(Role::FOLLOWER) || !of_logs.contains(&call.number)));
    }

    #[test]
    fn what_makes_or_reaches_more_is_not_allowed() {
        let never = [
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_memfd_create,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_ptrace,
            libc::SYS_prctl,
            libc::SYS_seccomp,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
        ];
        let reads =
            |call: &Call| call.number == libc::SYS_openat && call.roles == Role::READER && !call.only.is_empty();
        assert!(all().all(|call| !never.contains(&call.number) || call.refused.is_some() || reads(call)));
    }
}
