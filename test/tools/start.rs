//! How long a command takes from start to exit, without an interpreter in between.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::stats::Samples;

#[derive(clap::Args)]
pub struct Options {
    /// Starts
    #[arg(long, default_value_t = 50)]
    count: usize,
    /// Before each start, create user and network namespaces; `{}` in the command is the id of a process inside
    #[arg(long)]
    namespace: bool,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let mut samples = Samples::default();
    for _ in 0..options.count {
        let mut inside = None;
        let mut id = String::new();
        if options.namespace {
            let mut child = Command::new("unshare")
                .args(["--user", "--map-root-user", "--net", "sh", "-c", "echo; exec cat"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start unshare")?;
            BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut String::new())?;
            id = child.id().to_string();
            inside = Some(child);
        }
        let arguments = options.command[1..].iter().map(|argument| argument.replace("{}", &id));
        let mut command = Command::new(&options.command[0]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let before = Instant::now();
        let status = command.status()?;
        samples.add(before.elapsed());
        if let Some(mut child) = inside {
            child.kill()?;
            child.wait()?;
        }
        if !status.success() {
            bail!("{} ended with {status}", options.command.join(" "));
        }
    }
    println!("{{{}}}", samples.json());
    Ok(())
}
