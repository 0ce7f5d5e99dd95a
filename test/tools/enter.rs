//! Runs a command where a guest's process is, as the guest's root. nsenter cannot: it insists on setgroups(2), which a
//! user namespace made without privilege denies.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, setresgid, setresuid};

#[derive(clap::Args)]
pub struct Options {
    /// Process whose namespaces to enter
    pid: i32,
    /// Stay who we are: only the network namespace is entered
    #[arg(long)]
    net_only: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let kinds: &[&str] = if options.net_only { &["net"] } else { &["net", "uts", "mnt", "pid", "user"] };
    let mut wanted = Vec::new();
    for kind in kinds {
        // The kernel refuses to enter the user namespace the process already is in. It is the last one: entering gives up
        // the right to enter namespaces that belong to the outer one.
        let file = File::open(format!("/proc/{}/ns/{kind}", options.pid)).context("the process is gone")?;
        if file.metadata()?.ino() != std::fs::metadata(format!("/proc/self/ns/{kind}"))?.ino() {
            wanted.push((kind, file));
        }
    }
    for (kind, file) in wanted {
        setns(file, CloneFlags::empty()).with_context(|| format!("cannot enter the {kind} namespace"))?;
        if *kind == "user" {
            setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
            setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
        }
    }
    // A PID namespace is entered by children only. Nothing may outlive the test that started us.
    let mut command = Command::new(&options.command[0]);
    command.args(&options.command[1..]);
    // SAFETY: prctl is async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)) };
    let status = command.status().with_context(|| format!("cannot start {}", options.command[0]))?;
    std::process::exit(status.code().unwrap_or(128 + status.signal().unwrap_or(0)));
}
