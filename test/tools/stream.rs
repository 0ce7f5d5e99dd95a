//! Seeded streams over TCP, in one direction or both, and what arrived of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::pattern::{CHUNK_BYTES, Hash, Pattern};
use crate::stats;

#[derive(clap::Args)]
pub struct Options {
    /// Accept the connections here
    #[arg(long, conflicts_with = "connect")]
    listen: Option<SocketAddr>,
    /// Open the connections to here
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Bytes to send on each connection, then half-close
    #[arg(long, default_value_t = 0)]
    send: u64,
    /// Start to send only when the peer has half-closed
    #[arg(long)]
    send_last: bool,
    /// Connections at the same time
    #[arg(short = 'P', long, default_value_t = 1)]
    streams: usize,
    /// Seed of the first stream; each further one counts up
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Pause before the first byte is read
    #[arg(long, default_value_t = 0)]
    stall_ms: u64,
    /// Congestion control by name
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// Give up after this time
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub fn run(options: &Options) -> Result<()> {
    let congestion = Some(options.congestion.as_str());
    let limit = Duration::from_secs(options.seconds);
    let mut connections = Vec::new();
    match (options.listen, options.connect) {
        (Some(at), None) => {
            let listener = stats::listen(at, congestion)?;
            println!(r#"{{"ready":true}}"#);
            for _ in 0..options.streams {
                connections.push(accept_within(&listener, limit)?);
            }
        }
        (None, Some(to)) => {
            for _ in 0..options.streams {
                connections.push(stats::connect(to, congestion, limit)?);
            }
        }
        _ => bail!("give --listen or --connect"),
    }
    let started = Instant::now();
    let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let workers: Vec<_> = connections
            .into_iter()
            .enumerate()
            .map(|(nth, stream)| scope.spawn(move || transfer(stream, options, options.seed + nth as u64, limit)))
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no worker panics")).collect()
    });
    report(outcomes, started.elapsed())
}

struct Outcome {
    sent: Hash,
    received: Hash,
}

fn report(outcomes: Vec<Result<Outcome>>, took: Duration) -> Result<()> {
    let (mut sent, mut received, mut parts) = (0, 0, Vec::new());
    for outcome in outcomes {
        let Outcome { sent: s, received: r } = outcome?;
        sent += s.len();
        received += r.len();
        parts.push(format!(
            r#"{{"sent":{},"sent_hash":"{:016x}","received":{},"received_hash":"{:016x}"}}"#,
            s.len(),
            s.finish(),
            r.len(),
            r.finish()
        ));
    }
    let gbps = |bytes: u64| bytes as f64 * 8e-9 / took.as_secs_f64();
    println!(
        r#"{{"seconds":{:.4},"sent_gbps":{:.3},"received_gbps":{:.3},"streams":[{}]}}"#,
        took.as_secs_f64(),
        gbps(sent),
        gbps(received),
        parts.join(",")
    );
    Ok(())
}

fn accept_within(listener: &std::net::TcpListener, limit: Duration) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let started = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if started.elapsed() > limit {
                    bail!("no connection within {limit:?}");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn transfer(stream: TcpStream, options: &Options, seed: u64, limit: Duration) -> Result<Outcome> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    std::thread::sleep(Duration::from_millis(options.stall_ms));
    if options.send_last {
        let received = receive(&stream)?;
        return Ok(Outcome { sent: send(&stream, seed, options.send)?, received });
    }
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&stream, seed, options.send));
        let received = receive(&stream)?;
        Ok(Outcome { sent: sender.join().expect("the sender does not panic")?, received })
    })
}

fn send(mut stream: &TcpStream, seed: u64, total: u64) -> Result<Hash> {
    let mut pattern = Pattern::new(seed);
    let mut hash = Hash::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    while hash.len() < total {
        pattern.fill(&mut chunk);
        let take = usize::try_from(total - hash.len()).unwrap_or(usize::MAX).min(chunk.len());
        stream.write_all(&chunk[..take]).with_context(|| format!("sending failed after {} bytes", hash.len()))?;
        hash.update(&chunk[..take]);
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(hash)
}

fn receive(mut stream: &TcpStream) -> Result<Hash> {
    let mut hash = Hash::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match stream.read(&mut chunk).with_context(|| format!("receiving failed after {} bytes", hash.len()))? {
            0 => return Ok(hash),
            n => hash.update(&chunk[..n]),
        }
    }
}
