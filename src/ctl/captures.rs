//! `spelt ctl capture`: opens what the instance, which sees no files, is to write to; and the table of captures.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::args::CaptureCommand;
use super::client::Client;
use super::table::{self, Table};
use crate::control::capture::{Capture, CaptureOptions, Captures};
use crate::sys::signal::Signals;

/// # Errors
/// The file cannot be had, or the instance refuses, or does not answer.
pub fn run(client: &mut Client, command: &CaptureCommand, json: bool) -> anyhow::Result<()> {
    match command {
        CaptureCommand::List => super::show(client, json, "capture.list", table),
        CaptureCommand::Stop { ids } => {
            let value = client.ask("capture.stop", json!({ "ids": ids }))?;
            super::print(&if json { super::json_line(&value) } else { ended(&value)? })
        }
        CaptureCommand::Start { file, frames } => {
            let value = start(client, &frames.capture(), &open(file)?.into())?;
            let capture: Capture = serde_json::from_value(value.clone())?;
            super::print(&if json { super::json_line(&value) } else { format!("capture {} has begun\n", capture.id) })
        }
        CaptureCommand::Stream { frames } => stream(client, &frames.capture()),
    }
}

fn start(client: &mut Client, options: &CaptureOptions, output: &OwnedFd) -> anyhow::Result<Value> {
    client.ask_with("capture.start", serde_json::to_value(options)?, Some(output.as_fd()))
}

/// Readable by its owner only. A FIFO must not make us wait, nor the instance.
fn open(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600).custom_flags(OFlag::O_NONBLOCK.bits());
    options.open(path).map_err(|e| match e.raw_os_error() {
        Some(libc::ENXIO) => anyhow::anyhow!("nobody reads '{}': start its reader first", path.display()),
        _ => anyhow::Error::new(e).context(format!("cannot write the file '{}'", path.display())),
    })
}

/// Copies what comes to standard output, until either side ends. The instance gets a pipe, and not our standard output: that
/// may be somebody else's as well, and is not to become one that does not wait.
fn stream(client: &mut Client, options: &CaptureOptions) -> anyhow::Result<()> {
    let out = io::stdout();
    if out.is_terminal() {
        bail!("a capture is nothing for a terminal to show: lead it to 'tshark -r -', or to a file");
    }
    let (from, to) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("no pipe can be had")?;
    fcntl(&to, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // It holds more of a burst. Without, there may be too many pipes of this user already.
    let _ = fcntl(&to, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    let signals = Signals::new(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])?;
    let capture: Capture = serde_json::from_value(start(client, options, &to)?)?;
    // From here on only the instance has it: its end is the end.
    drop(to);
    let path = client.path().to_owned();
    let stop = move || {
        // It may have ended meanwhile; if the instance does not answer, another signal helps.
        let _ = Client::connect(&path).and_then(|mut c| c.ask("capture.stop", json!({ "ids": [capture.id] })));
    };
    // Past the buffer, which knows lines.
    let out = File::from(out.as_fd().try_clone_to_owned()?);
    copy(File::from(from), out, signals, stop)
}

/// Until the end of `from`, or until nobody reads `out` any more. At the first signal `stop` is called, in a thread of its own,
/// for its work needs ours; what is on its way still comes. Another signal ends it at once.
fn copy(
    mut from: File,
    mut out: File,
    mut signals: Signals,
    stop: impl FnOnce() + Send + 'static,
) -> anyhow::Result<()> {
    let mut room = vec![0; PIPE_BYTES as usize];
    let (mut left, mut stop) = (0..0, Some(stop));
    loop {
        let (readable, writable) = if left.is_empty() {
            (PollFlags::POLLIN, PollFlags::empty())
        } else {
            (PollFlags::empty(), PollFlags::POLLOUT)
        };
        let mut fds = [
            PollFd::new(from.as_fd(), readable),
            PollFd::new(out.as_fd(), writable),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let [comes, leaves, signalled] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        if leaves.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            return Ok(());
        }
        if !signalled.is_empty() && signals.take()?.is_some() {
            let Some(stop) = stop.take() else { return Ok(()) };
            std::thread::spawn(stop);
        }
        if left.is_empty() && comes.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
            left = 0..from.read(&mut room)?;
            if left.is_empty() {
                return Ok(());
            }
        } else if leaves.contains(PollFlags::POLLOUT) {
            // So much does not wait where there is room at all (pipe(7)), and signals are heard.
            let end = left.end.min(left.start + libc::PIPE_BUF);
            match out.write(&room[left.start..end]) {
                Ok(n) => left.start += n,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Between the instance and us: as large as a user's may be by default (pipe(7)).
const PIPE_BYTES: i32 = 1 << 20;

fn table(value: &Value) -> anyhow::Result<String> {
    let all: Captures = serde_json::from_value(value.clone())?;
    let mut table = Table::new(&["ID", "FRAMES", "BYTES", "LOST", "OF"]);
    table.right(&[0, 1, 2, 3]);
    for c in &all.captures {
        let (frames, bytes, lost) = (c.frames.to_string(), table::bytes(c.bytes), c.lost.to_string());
        table.row([c.id.to_string(), frames, bytes, lost, described(&c.options)]);
    }
    Ok(table.render(table::width()))
}

/// In the words of the command line.
fn described(o: &CaptureOptions) -> String {
    let words: Vec<String> = [
        o.protocol.clone(),
        o.address.map(|a| format!("host {a}")),
        o.port.map(|p| format!("port {p}")),
        o.flow.map(|[a, b]| format!("flow {a} {b}")),
        o.snaplen.map(|n| format!("snaplen {n}")),
        o.limit.map(|n| format!("limit {n}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if words.is_empty() { "everything".into() } else { words.join(", ") }
}

fn ended(value: &Value) -> anyhow::Result<String> {
    let all: Captures = serde_json::from_value(value.clone())?;
    let line = |c: &Capture| {
        let lost = if c.lost > 0 { format!(", {} lost", c.lost) } else { String::new() };
        let how = if c.complete { "has ended" } else { "is about to end: what it is written to keeps it waiting" };
        format!("capture {} {how}: {} frames{lost}\n", c.id, c.frames)
    };
    Ok(all.captures.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people() {
        let options = CaptureOptions {
            address: Some("192.0.2.1".parse().unwrap()),
            port: Some(443),
            limit: Some(5000),
            ..CaptureOptions::default()
        };
        assert_eq!(described(&options), "host 192.0.2.1, port 443, limit 5000");
        assert_eq!(described(&CaptureOptions::default()), "everything");
        let capture = Capture { id: 2, frames: 10, bytes: 1000, lost: 3, complete: true, options };
        let value = serde_json::to_value(Captures { captures: vec![capture] }).unwrap();
        assert_eq!(ended(&value).unwrap(), "capture 2 has ended: 10 frames, 3 lost\n");
    }
}
