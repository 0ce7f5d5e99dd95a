//! The controlling terminal: its foreground process group, its size, single keys of it, and what it must not be told.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// A terminal whose foreground process group is ours.
#[derive(Debug)]
pub struct Terminal {
    fd: OwnedFd,
    group: Pid,
}

impl Terminal {
    /// `None` without a terminal, and in the background.
    pub fn of_foreground() -> Option<Terminal> {
        let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
        let group = getpgrp();
        let ours = |fd: &BorrowedFd<'_>| tcgetpgrp(fd) == Ok(group);
        let fd = [input.as_fd(), output.as_fd(), errors.as_fd()].into_iter().find(ours)?;
        Some(Terminal { fd: fd.try_clone_to_owned().ok()?, group })
    }

    /// Makes our group the foreground again if the one that became it has no process left. An interactive shell makes
    /// itself the foreground and gives that back at its end; but in a PID namespace it could not see to whom. The next
    /// program that reads the terminal in our group would be stopped.
    pub fn take_back(&self) {
        let Ok(now) = tcgetpgrp(&self.fd) else { return };
        // A group with processes is for whoever made it the foreground to care about.
        if now == self.group || killpg(now, None) != Err(nix::Error::ESRCH) {
            return;
        }
        // For a group in the background the change itself raises SIGTTOU (tcsetpgrp(3)).
        let stop = SigSet::from(Signal::SIGTTOU);
        if stop.thread_block().is_ok() {
            let _ = tcsetpgrp(&self.fd, self.group);
            let _ = stop.thread_unblock();
        }
    }
}

/// Columns and lines; `None`: it is no terminal, or does not know.
pub fn size(fd: &impl AsFd) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes one `winsize`, which `size` is.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (done == 0 && size.ws_col > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// While it lives, the terminal on standard input gives keys one by one and does not show them.
#[derive(Debug)]
pub struct Keys(Termios);

impl Keys {
    /// `None`: there is no terminal, or it is somebody else's now.
    pub fn take() -> Option<Keys> {
        let input = io::stdin();
        if tcgetpgrp(&input) != Ok(getpgrp()) {
            return None;
        }
        let before = tcgetattr(&input).ok()?;
        let mut now = before.clone();
        now.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(&input, SetArg::TCSANOW, &now).ok()?;
        Some(Keys(before))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // What was typed in between is for nobody.
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
    }
}

/// What somebody else says, as one line with nothing in it that a terminal would obey.
pub fn harmless(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// The same, of several lines.
pub fn harmless_lines(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n', "?")
}

/// The same, of JSON, whose meaning stays (RFC 8259 §7): its writers escape the control characters that it asks for, and not
/// those of Unicode behind them, which some terminals obey.
pub fn harmless_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // Those below are blanks between its parts.
        if c.is_control() && c > ' ' { out.push_str(&format!("\\u{:04x}", u32::from(c))) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_is_for_the_terminal_to_obey() {
        assert_eq!(harmless("\x1b[2J\u{9b}H\x7f\r\nHOST é"), "?[2J?H???HOST é");
        assert_eq!(harmless_lines("a\x1b[2J\nb\r\u{85}\n"), "a?[2J\nb??\n");
    }

    #[test]
    fn json_means_the_same_without_them() {
        let value = serde_json::json!({ "a\u{9b}": "\x1b[2J\u{9b}2J\x7f é" });
        let text = harmless_json(&format!("{value}\n"));
        assert_eq!(text, "{\"a\\u009b\":\"\\u001b[2J\\u009b2J\\u007f é\"}\n");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
