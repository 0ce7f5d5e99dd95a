//! A conversation with an instance, as [`crate::control::pesto`] has it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::control::pesto::codec::{self, ANSWER_BYTES_MAX, MESSAGE_BYTES_MAX, Table};

/// Our turn comes when another client's is over.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this long without a word it may be that nobody will say one.
const SILENCE: Duration = Duration::from_secs(2);
const ROOM_BYTES: usize = 16 << 10;

pub struct Exchange {
    stream: UnixStream,
}

/// What became of an update.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Refused(String),
    /// It does not say: it is not one of ours.
    Silent,
}

impl Exchange {
    /// Connects, and waits for the tables.
    ///
    /// # Errors
    /// Nobody is there, or somebody else.
    pub fn open(path: &Path) -> anyhow::Result<(Exchange, Vec<Table>)> {
        let place = path.display();
        let mut stream = UnixStream::connect(path).with_context(|| format!("cannot connect to '{place}'"))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let tables = greeting(&mut stream, path).with_context(|| format!("cannot talk to who listens at '{place}'"))?;
        Ok((Exchange { stream }, tables))
    }

    /// Says how all tables are to be, and waits until that is done.
    ///
    /// # Errors
    /// It is more than can be said, or nobody listens.
    pub fn update(mut self, tables: &[Table]) -> anyhow::Result<Outcome> {
        let bytes = codec::update(tables)?;
        match self.stream.write_all(&bytes) {
            // It has closed already, and the tables will tell why.
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                bail!("the instance has not read the new tables for {} seconds: is it stopped?", PATIENCE.as_secs())
            }
            other => other.context("cannot send the new tables")?,
        }
        let answer = self.last_words()?;
        Ok(match codec::read_answer(&answer) {
            Some(Ok(())) => Outcome::Done,
            Some(Err(why)) => Outcome::Refused(why),
            None => Outcome::Silent,
        })
    }

    /// All that it says, to its end.
    fn last_words(&mut self) -> anyhow::Result<Vec<u8>> {
        let until = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        let mut room = [0; 2 * ANSWER_BYTES_MAX];
        while said.len() < room.len() {
            match self.stream.read(&mut room) {
                Ok(0) => break,
                Ok(n) => said.extend_from_slice(&room[..n]),
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                // Reset: what has come before counts.
                Err(_) => break,
            }
            if Instant::now() >= until {
                let seconds = PATIENCE.as_secs();
                bail!("the instance has not finished within {seconds} seconds, and may do so yet: is it stopped?");
            }
        }
        Ok(said)
    }

    /// The path by which the kernel knows the socket.
    pub fn bound_to(&self) -> Option<PathBuf> {
        self.stream.peer_addr().ok()?.as_pathname().map(Path::to_path_buf)
    }
}

fn greeting(stream: &mut UnixStream, path: &Path) -> anyhow::Result<Vec<Table>> {
    let until = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    let mut room = [0; ROOM_BYTES];
    let mut asked = false;
    stream.set_read_timeout(Some(SILENCE))?;
    loop {
        match stream.read(&mut room) {
            Ok(0) if said.is_empty() => bail!("it has closed the connection: is it ending, or are you another user?"),
            Ok(0) => bail!("it has closed the connection in the middle of a word"),
            Ok(n) => said.extend_from_slice(&room[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !std::mem::replace(&mut asked, true) && said.is_empty() && speaks_json(path) {
                    bail!("this is spelt's own control socket, which 'spelt ctl --instance PATH forward' understands");
                }
            }
            Err(e) => return Err(e.into()),
        }
        if let Some(tables) = codec::read_hello(&said)? {
            return Ok(tables);
        }
        if said.len() > MESSAGE_BYTES_MAX {
            bail!("it says more than the protocol of pesto has");
        }
        if Instant::now() >= until {
            let what = if said.is_empty() { "said nothing" } else { "not said all" };
            bail!("it has {what} for {} seconds: is it stopped, or another client's turn?", PATIENCE.as_secs());
        }
    }
}

/// Whether who listens there waits for requests in JSON. By another connection: this one may have its turn yet.
fn speaks_json(path: &Path) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"info\"}\n")?;
        let mut first = [0];
        Ok(stream.read(&mut first)? == 1 && first == *b"{")
    };
    ask().unwrap_or(false)
}
