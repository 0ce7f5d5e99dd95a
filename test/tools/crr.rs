//! Connection rate: connect, one byte each way, close; a fixed number in flight.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::stats::{self, Samples};

#[derive(clap::Args)]
pub struct Options {
    /// Where `echo` listens
    #[arg(long)]
    connect: SocketAddr,
    /// Connections in all
    #[arg(long, default_value_t = 5000)]
    count: usize,
    /// Connections in flight
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// Give up after this time
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Begin none after this time, and let those in flight come to their end
    #[arg(long)]
    begin_for: Option<u64>,
    /// Take so many ports of the server in turn, counted from the given one: a closed connection keeps its pair of ports
    /// for a minute
    #[arg(long, default_value_t = 1)]
    ports: u16,
}

pub fn run(options: &Options) -> Result<()> {
    stats::raise_descriptor_limit()?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut slots: Vec<Option<Attempt>> = Vec::new();
    slots.resize_with(options.parallel, || None);
    let (mut begun, mut done, mut failed) = (0, 0, 0);
    let mut samples = Samples::default();
    let started = Instant::now();
    let mut count = options.count;
    while done + failed < count {
        if options.begin_for.is_some_and(|seconds| started.elapsed() >= Duration::from_secs(seconds)) {
            count = begun.min(count);
        }
        for (at, slot) in slots.iter_mut().enumerate() {
            if slot.is_none() && begun < count {
                let mut to = options.connect;
                to.set_port(to.port() + (begun % usize::from(options.ports)) as u16);
                *slot = Some(Attempt::start(to, &poll, Token(at))?);
                begun += 1;
            }
        }
        match poll.poll(&mut events, Some(Duration::from_secs(1))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            let slot = &mut slots[event.token().0];
            let Some(attempt) = slot else { continue };
            match attempt.turn() {
                Ok(false) => continue,
                Ok(true) => {
                    samples.add(attempt.started.elapsed());
                    done += 1;
                }
                Err(_) => failed += 1,
            }
            *slot = None;
        }
        if started.elapsed() > Duration::from_secs(options.seconds) {
            failed = count - done;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        r#"{{{},"failed":{failed},"seconds":{seconds:.3},"per_second":{:.0}}}"#,
        samples.json(),
        done as f64 / seconds
    );
    Ok(())
}

struct Attempt {
    stream: TcpStream,
    asked: bool,
    started: Instant,
}

impl Attempt {
    fn start(to: SocketAddr, poll: &Poll, token: Token) -> Result<Attempt> {
        let started = Instant::now();
        let mut stream = TcpStream::connect(to)?;
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Attempt { stream, asked: false, started })
    }

    /// Whether the byte came back.
    fn turn(&mut self) -> Result<bool> {
        if !self.asked {
            if let Some(error) = self.stream.take_error()? {
                return Err(error.into());
            }
            match self.stream.write(&[7]) {
                Ok(_) => self.asked = true,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        match self.stream.read(&mut [0]) {
            Ok(0) => bail!("closed without an answer"),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
