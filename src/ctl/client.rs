//! A connection to a control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::control::protocol::{Blame, Failure};
use crate::sys::fdpass;
use crate::sys::terminal::harmless;

/// Longer than an instance waits for its workers.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    last_id: u64,
}

impl Client {
    /// # Errors
    /// Nobody listens there, or the user may not connect.
    pub fn connect(path: &Path) -> anyhow::Result<Client> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("cannot reach the control socket '{}'", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { path: path.to_owned(), stream: BufReader::new(stream), last_id: 0 })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// What the instance says, or that it says nothing.
    pub fn ask(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.ask_with(method, params, None)
    }

    /// Lends the instance a descriptor.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_with(&mut self, method: &str, params: Value, fd: Option<BorrowedFd<'_>>) -> anyhow::Result<Value> {
        self.last_id += 1;
        let request = json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params });
        let silent = || format!("no answer from the control socket '{}'", self.path.display());
        let mut stream = self.stream.get_ref();
        if let Some(fd) = fd {
            // With the first byte of the request, so that the rest may leave in pieces.
            fdpass::send(stream.as_fd(), b"\n", Some(fd)).with_context(silent)?;
        }
        stream.write_all(format!("{request}\n").as_bytes()).with_context(silent)?;
        if self.stream.fill_buf().with_context(silent)?.starts_with(b"basil:s") {
            bail!("'{}' is a socket of option '--conf-path', which 'pesto' understands", self.path.display());
        }
        let mut line = String::new();
        if self.stream.read_line(&mut line).with_context(silent)? == 0 {
            bail!("the instance has closed the connection: is it ending, or are you another user?");
        }
        let mut reply: Value = serde_json::from_str(&line).context("the answer is no JSON")?;
        match reply.get_mut("error").filter(|e| !e.is_null()) {
            None => Ok(reply["result"].take()),
            Some(error) => Err(refused(error.take())),
        }
    }
}

/// In the instance's words, a line each.
fn refused(error: Value) -> anyhow::Error {
    match serde_json::from_value::<Failure>(error) {
        Ok(Failure { message, data, .. }) => {
            let line = |b: &Blame| format!("\n  number {}: {}", b.index.saturating_add(1), harmless(&b.message));
            let blamed: String = data.iter().map(line).collect();
            anyhow::anyhow!("{}{blamed}", harmless(&message))
        }
        Err(_) => anyhow::anyhow!("the instance says no, and its reason is not understood"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_instance_says_is_a_line_and_does_nothing_to_the_terminal() {
        let of = |error| refused(error).to_string();
        assert_eq!(of(json!({ "code": 1, "message": "no\n\x1b[2J" })), "no??[2J");
        let data = json!([{ "index": 0, "message": "a\u{9b}H" }, { "index": usize::MAX, "message": "b\rc" }]);
        assert_eq!(
            of(json!({ "code": 1, "message": "no", "data": data })),
            format!("no\n  number 1: a?H\n  number {}: b?c", usize::MAX)
        );
        assert!(of(json!("\x1b[2J")).starts_with("the instance says no, and"));
    }
}
