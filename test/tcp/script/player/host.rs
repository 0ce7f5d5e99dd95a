//! The program at the other end of the host's socket.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant as Wall};

use socket2::SockRef;

use super::super::parse::Host;
use super::{PATIENCE, Player};
use crate::LOOPBACKS;
use crate::world::pattern_from;

impl Player {
    pub(super) fn host(&mut self, act: Host) -> Result<(), String> {
        self.say(format!("host   {act:?}"));
        match act {
            Host::Connects => self.host_connects(),
            Host::Accepts => {
                let listener = self.listener.as_ref().ok_or("nobody listens")?;
                self.host = Some(listener.accept().map_err(|e| e.to_string())?.0);
            }
            Host::Refuses => self.listener = None,
            Host::NeverAnswers => {
                // One connection fills a queue of length 0; SYNs beyond it are dropped.
                let listener = self.listener.as_ref().ok_or("nobody listens")?;
                SockRef::from(listener).listen(0).map_err(|e| e.to_string())?;
                let to = listener.local_addr().map_err(|e| e.to_string())?;
                self.idlers.push(TcpStream::connect(to).map_err(|e| e.to_string())?);
            }
            Host::Buffers(n) => {
                let listener = self.listener.as_ref().ok_or("nobody listens")?;
                SockRef::from(listener).set_recv_buffer_size(n).map_err(|e| e.to_string())?;
            }
            Host::Writes(n) => {
                let data = pattern_from(self.written as u64, n);
                self.written += n;
                let host = self.host.as_mut().ok_or("the host has no connection")?;
                host.set_nonblocking(false).and_then(|()| host.write_all(&data)).map_err(|e| e.to_string())?;
            }
            Host::Reads(n) => self.read(n)?,
            Host::ReadsAll => {
                let taken = self.acked.wrapping_sub(self.guest.isn).wrapping_sub(1) as usize;
                self.read(taken.saturating_sub(self.read_at))?;
            }
            Host::ReadsNothing => {
                self.turn(0)?;
                match self.read_some(1) {
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    other => return Err(format!("the host reads {other:?}")),
                }
            }
            Host::ReadsEnd => match self.outcome()? {
                Ok(got) if got.is_empty() => {}
                other => return Err(format!("the host reads {other:?}")),
            },
            Host::ReadsReset => match self.outcome()? {
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
                other => return Err(format!("the host reads {other:?}")),
            },
            Host::ShutsDown => self.socket()?.shutdown(std::net::Shutdown::Write).map_err(|e| e.to_string())?,
            Host::Closes => self.host = None,
            Host::Resets => {
                SockRef::from(self.socket()?).set_linger(Some(Duration::ZERO)).map_err(|e| e.to_string())?;
                self.host = None;
            }
        }
        Ok(())
    }

    /// Through a listener of ours to port 80 of the guest.
    fn host_connects(&mut self) {
        let ours = TcpListener::bind(LOOPBACKS[usize::from(self.v.v6)]).expect("loopback");
        let client = TcpStream::connect(ours.local_addr().expect("bound")).expect("a connection");
        self.guest_port = 80;
        self.remote_port = client.local_addr().expect("bound").port();
        self.aim();
        assert!(self.w.client_came(ours.accept().expect("it is here").0, self.guest_port), "the engine refuses");
        self.host = Some(client);
    }

    fn socket(&self) -> Result<&TcpStream, String> {
        self.host.as_ref().ok_or_else(|| "the host has no connection".to_owned())
    }

    fn read_some(&mut self, most: usize) -> std::io::Result<Vec<u8>> {
        let host = self.host.as_mut().ok_or(ErrorKind::NotConnected)?;
        host.set_nonblocking(true)?;
        let mut buf = vec![0; most];
        let n = host.read(&mut buf)?;
        buf.truncate(n);
        Ok(buf)
    }

    /// What a read brings, once it brings anything.
    fn outcome(&mut self) -> Result<std::io::Result<Vec<u8>>, String> {
        let end = Wall::now() + PATIENCE;
        let mut ms = 0;
        loop {
            match self.read_some(1) {
                Err(e) if e.kind() == ErrorKind::WouldBlock && Wall::now() < end => self.turn(ms)?,
                other => return Ok(other),
            }
            ms = 1;
        }
    }

    /// The next `n` bytes of the guest's stream.
    fn read(&mut self, n: usize) -> Result<(), String> {
        let end = Wall::now() + PATIENCE;
        let mut got = Vec::new();
        while got.len() < n {
            match self.read_some(n - got.len()) {
                Ok(some) if some.is_empty() => return Err(format!("the host reads an end after {} bytes", got.len())),
                Ok(some) => got.extend(some),
                Err(e) if e.kind() == ErrorKind::WouldBlock && Wall::now() < end => self.turn(1)?,
                Err(e) => return Err(format!("the host reads {} bytes, then: {e}", got.len())),
            }
        }
        if got != pattern_from(self.read_at as u64, n) {
            return Err("the host reads what the guest has not written".to_owned());
        }
        self.read_at += n;
        Ok(())
    }
}
