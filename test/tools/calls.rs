//! The filter of system calls, for tests: what it allows, and what becomes of a process that makes another call.

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;
use spelt::sandbox::{self, Role, table};
use spelt::sys::process;

#[derive(Parser)]
pub struct Options {
    /// Become one of these instead of listing: run, attach, machine, card, broker, upkeep, reader, responder, follower
    #[arg(long = "as", requires = "make", value_parser = role)]
    role: Option<Role>,
    /// And make this call, or 'panic' or 'abort'
    #[arg(long, requires = "role")]
    make: Option<String>,
}

#[derive(Serialize)]
struct Allowed {
    name: &'static str,
    roles: Vec<&'static str>,
    rare: bool,
    refused: bool,
}

pub fn run(options: &Options) -> Result<()> {
    if let (Some(role), Some(call)) = (options.role, &options.make) {
        return make(role, call);
    }
    let allowed = table::all().map(|call| Allowed {
        name: call.name(),
        roles: ROLES.iter().filter(|(_, role)| call.roles.contains(*role)).map(|(name, _)| *name).collect(),
        rare: call.rare.is_some(),
        refused: call.refused.is_some(),
    });
    println!("{}", serde_json::to_string(&allowed.collect::<Vec<_>>())?);
    Ok(())
}

/// Comes back only if the call does.
fn make(role: Role, call: &str) -> Result<()> {
    sandbox::enter(&sandbox::Params { role: Some(role), ..sandbox::Params::default() })?;
    match call {
        "panic" => panic!("as after a bug"),
        "abort" => std::process::abort(),
        _ => {}
    }
    let known = CALLS.iter().find(|(name, ..)| *name == call);
    let (_, number, args) = known.with_context(|| format!("no call '{call}' is known here"))?;
    // SAFETY: what the calls of the table would do if they were allowed touches no memory of ours.
    let result = unsafe { libc::syscall(*number, args[0], args[1], args[2], args[3], args[4], args[5]) };
    println!("{{\"result\": {result}, \"errno\": {}}}", nix::Error::last_raw());
    // An orderly end makes more calls than small processes may.
    process::exit_now(0);
}

fn role(text: &str) -> Result<Role, String> {
    ROLES.iter().find(|(name, _)| *name == text).map(|(_, role)| *role).ok_or_else(|| "there is no such role".into())
}

const ROLES: [(&str, Role); 9] = [
    ("run", Role::RUN),
    ("attach", Role::ATTACH),
    ("machine", Role::MACHINE),
    ("card", Role::CARD),
    ("broker", Role::BROKER),
    ("upkeep", Role::UPKEEP),
    ("reader", Role::READER),
    ("responder", Role::RESPONDER),
    ("follower", Role::FOLLOWER),
];

const fn list(first: &[i64]) -> [i64; 6] {
    let mut args = [0; 6];
    let mut i = 0;
    while i < first.len() {
        args[i] = first[i];
        i += 1;
    }
    args
}

const AT_NOWHERE: i64 = -1;
const EXECUTABLE: i64 = (libc::PROT_READ | libc::PROT_EXEC) as i64;
const PRIVATE: i64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64;
const CALLS: &[(&str, i64, [i64; 6])] = &[
    ("openat", libc::SYS_openat, list(&[AT_NOWHERE])),
    ("execve", libc::SYS_execve, list(&[])),
    ("ptrace", libc::SYS_ptrace, list(&[libc::PTRACE_TRACEME as i64])),
    ("setns", libc::SYS_setns, list(&[AT_NOWHERE])),
    ("unshare", libc::SYS_unshare, list(&[])),
    ("clone", libc::SYS_clone, list(&[libc::SIGCHLD as i64])),
    ("clone3", libc::SYS_clone3, list(&[])),
    ("prctl", libc::SYS_prctl, list(&[libc::PR_GET_DUMPABLE as i64])),
    ("prctl name", libc::SYS_prctl, list(&[libc::PR_SET_VMA as i64, libc::PR_SET_VMA_ANON_NAME as i64])),
    ("madvise large pages", libc::SYS_madvise, list(&[0, 0, libc::MADV_HUGEPAGE as i64])),
    ("bpf", libc::SYS_bpf, list(&[])),
    ("io_uring_setup", libc::SYS_io_uring_setup, list(&[])),
    ("mmap executable", libc::SYS_mmap, list(&[0, 4096, EXECUTABLE, PRIVATE, -1])),
    ("mprotect executable", libc::SYS_mprotect, list(&[0, 0, EXECUTABLE])),
    ("socket packet", libc::SYS_socket, list(&[libc::AF_PACKET as i64, libc::SOCK_RAW as i64])),
    ("socket raw", libc::SYS_socket, list(&[libc::AF_INET as i64, libc::SOCK_RAW as i64, libc::IPPROTO_ICMP as i64])),
    ("socket local", libc::SYS_socket, list(&[libc::AF_UNIX as i64, libc::SOCK_STREAM as i64])),
    ("socket route", libc::SYS_socket, list(&[libc::AF_NETLINK as i64, libc::SOCK_RAW as i64])),
    (
        "setsockopt filter",
        libc::SYS_setsockopt,
        list(&[AT_NOWHERE, libc::SOL_SOCKET as i64, libc::SO_ATTACH_FILTER as i64]),
    ),
    ("ioctl sti", libc::SYS_ioctl, list(&[AT_NOWHERE, libc::TIOCSTI as i64])),
    ("kill", libc::SYS_kill, list(&[0x7fff_fff0, libc::SIGKILL as i64])),
    ("tgkill", libc::SYS_tgkill, list(&[0x7fff_fff0, 0x7fff_fff0, libc::SIGABRT as i64])),
];
