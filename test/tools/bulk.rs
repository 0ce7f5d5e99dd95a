//! Many transfers at the same time, and many idle connections.
//!
//! A client sends eight bytes, the number of bytes it wants, then its payload, and half-closes. The server sends what is
//! wanted, reads to the end, answers with the number of payload bytes it read (eight bytes), and closes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::stats;

#[derive(clap::Args)]
pub struct ServeOptions {
    /// Address and port
    #[arg(long)]
    listen: SocketAddr,
}

#[derive(clap::Args)]
pub struct Options {
    /// Where `bulk-serve` listens
    #[arg(long)]
    connect: SocketAddr,
    /// Transfers, all at the same time
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Bytes the client sends in each
    #[arg(long, default_value_t = 0)]
    up: u64,
    /// Bytes the server sends in each
    #[arg(long, default_value_t = 0)]
    down: u64,
    /// Give up after this time
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

#[derive(clap::Args)]
pub struct HoldOptions {
    /// Where `echo` listens
    #[arg(long)]
    connect: SocketAddr,
    /// Connections to hold
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Connects that may fail before no more is tried
    #[arg(long, default_value_t = 0)]
    refusals: usize,
    /// How long a connect may take
    #[arg(long, default_value_t = 5000)]
    timeout_ms: u64,
}

pub fn serve(options: &ServeOptions) -> Result<()> {
    stats::raise_descriptor_limit()?;
    let mut poll = Poll::new()?;
    let listener = stats::listen(options.listen, Some("cubic"))?;
    listener.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    stats::wake_at_end_of_input(mio::Waker::new(poll.registry(), END)?);
    println!(r#"{{"ready":true}}"#);
    let mut transfers: Slab<Transfer> = Slab::new();
    let mut events = Events::with_capacity(1024);
    loop {
        wait(&mut poll, &mut events)?;
        for event in &events {
            match event.token() {
                END => return Ok(()),
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        let entry = transfers.vacant_entry();
                        let token = Token(entry.key());
                        entry.insert(Transfer::server(stream, &poll, token)?);
                    }
                }
                Token(at) => {
                    if transfers.get_mut(at).is_some_and(|transfer| transfer.turn() != Turn::Waits) {
                        transfers.remove(at);
                    }
                }
            }
        }
    }
}

pub fn run(options: &Options) -> Result<()> {
    stats::raise_descriptor_limit()?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let started = Instant::now();
    let mut transfers = Vec::with_capacity(options.count);
    for at in 0..options.count {
        let stream = TcpStream::connect(options.connect)?;
        transfers.push(Some(Transfer::client(stream, &poll, Token(at), options)?));
    }
    let (mut complete, mut failed) = (0, 0);
    while complete + failed < options.count && started.elapsed() < Duration::from_secs(options.seconds) {
        wait(&mut poll, &mut events)?;
        for event in &events {
            let slot = &mut transfers[event.token().0];
            match slot.as_mut().map(Transfer::turn) {
                None | Some(Turn::Waits) => continue,
                Some(Turn::Complete) => complete += 1,
                Some(Turn::Failed) => failed += 1,
            }
            *slot = None;
        }
    }
    println!(
        r#"{{"complete":{complete},"failed":{failed},"unfinished":{},"seconds":{:.4}}}"#,
        options.count - complete - failed,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

pub fn hold(options: &HoldOptions) -> Result<()> {
    stats::raise_descriptor_limit()?;
    let timeout = Duration::from_millis(options.timeout_ms);
    let (mut connections, mut refused) = (Vec::new(), 0);
    while connections.len() < options.count {
        match stats::connect(options.connect, Some("cubic"), timeout) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                connections.push(stream);
            }
            Err(_) if refused < options.refusals => refused += 1,
            Err(_) if options.refusals > 0 => break,
            Err(error) => return Err(error).with_context(|| format!("after {} connections", connections.len())),
        }
    }
    let answered = |connections: &mut [std::net::TcpStream]| {
        connections.iter_mut().filter_map(|c| c.write_all(&[7]).and_then(|()| c.read_exact(&mut [0])).ok()).count()
    };
    println!(r#"{{"ready":true,"alive":{},"refused":{refused}}}"#, answered(&mut connections));
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    println!(r#"{{"alive":{}}}"#, answered(&mut connections));
    Ok(())
}

fn wait(poll: &mut Poll, events: &mut Events) -> Result<()> {
    match poll.poll(events, Some(Duration::from_secs(1))) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error.into()),
        _ => Ok(()),
    }
}

/// One side of one transfer.
struct Transfer {
    stream: TcpStream,
    /// Bytes in front of the payload: the client's wish or the server's count.
    head: Vec<u8>,
    to_send: u64,
    /// A server's head is known only when the client is done.
    is_server: bool,
    half_closed: bool,
    received: u64,
    /// The first (server) or last (client) eight bytes received.
    number: [u8; 8],
    expected: u64,
    uploaded: u64,
}

#[derive(PartialEq)]
enum Turn {
    Waits,
    Complete,
    Failed,
}

impl Transfer {
    fn client(stream: TcpStream, poll: &Poll, token: Token, options: &Options) -> Result<Transfer> {
        let head = options.down.to_be_bytes().to_vec();
        let mut transfer = Transfer::server(stream, poll, token)?;
        (transfer.head, transfer.is_server, transfer.to_send) = (head, false, options.up);
        (transfer.expected, transfer.uploaded) = (options.down, options.up);
        Ok(transfer)
    }

    fn server(mut stream: TcpStream, poll: &Poll, token: Token) -> Result<Transfer> {
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Transfer {
            stream,
            head: Vec::new(),
            to_send: 0,
            is_server: true,
            half_closed: false,
            received: 0,
            number: [0; 8],
            expected: 0,
            uploaded: 0,
        })
    }

    fn turn(&mut self) -> Turn {
        match self.try_turn() {
            Ok(true) => Turn::Complete,
            Ok(false) => Turn::Waits,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => Turn::Waits,
            Err(_) => Turn::Failed,
        }
    }

    fn try_turn(&mut self) -> std::io::Result<bool> {
        let sending = self.send();
        let ended = self.receive()?;
        if self.is_server {
            if ended && self.head.is_empty() && !self.half_closed {
                self.head = self.received.saturating_sub(8).to_be_bytes().to_vec();
            }
            self.send()?;
            return Ok(self.half_closed);
        }
        sending?;
        if !ended {
            return Ok(false);
        }
        match self.received == self.expected + 8 && u64::from_be_bytes(self.number) == self.uploaded {
            true => Ok(true),
            false => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// The client's order is head, payload; the server's is payload, head.
    fn send(&mut self) -> std::io::Result<()> {
        if !self.is_server {
            self.send_head()?;
        }
        while self.to_send > 0 {
            let take = self.to_send.min(ZEROS.len() as u64) as usize;
            self.to_send -= self.stream.write(&ZEROS[..take])? as u64;
        }
        if self.is_server {
            let had = !self.head.is_empty();
            self.send_head()?;
            self.half_closed |= had;
        } else if !self.half_closed && self.head.is_empty() {
            self.stream.shutdown(Shutdown::Write)?;
            self.half_closed = true;
        }
        Ok(())
    }

    fn send_head(&mut self) -> std::io::Result<()> {
        while !self.head.is_empty() {
            let n = self.stream.write(&self.head)?;
            self.head.drain(..n);
        }
        Ok(())
    }

    /// Returns whether the peer has sent everything.
    fn receive(&mut self) -> std::io::Result<bool> {
        let mut room = [0; 65536];
        loop {
            let n = match self.stream.read(&mut room) {
                Ok(0) => return Ok(true),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let before = self.received;
            self.received += n as u64;
            // The server's number is in front of the payload, the client's behind it.
            let from = if self.is_server { 0 } else { self.expected };
            for (offset, byte) in room[..n].iter().enumerate() {
                let at = before + offset as u64;
                if (from..from + 8).contains(&at) {
                    self.number[(at - from) as usize] = *byte;
                }
            }
            if self.is_server && before < 8 && self.received >= 8 {
                self.to_send = u64::from_be_bytes(self.number);
            }
        }
    }
}

static ZEROS: [u8; 65536] = [0; 65536];

const LISTENER: Token = Token(usize::MAX - 1);
const END: Token = Token(usize::MAX - 2);
