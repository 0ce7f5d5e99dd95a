//! Round trips, one at a time.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::stats::{self, Samples};

#[derive(clap::Args)]
pub struct Options {
    /// Where `echo` listens
    #[arg(long)]
    connect: SocketAddr,
    /// Round trips to make
    #[arg(long, default_value_t = 10_000)]
    count: u32,
    /// Bytes each way
    #[arg(long, default_value_t = 1)]
    size: usize,
    /// Stop after this time even if the count is not reached
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

pub fn tcp(options: &Options) -> Result<()> {
    let mut stream = stats::connect(options.connect, Some("cubic"), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = vec![7; options.size];
    measure(options, || {
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        Ok(true)
    })
}

pub fn udp(options: &Options) -> Result<()> {
    let any: SocketAddr = if options.connect.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(options.connect)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut bytes = vec![7; options.size.max(1)];
    measure(options, || {
        socket.send(&bytes)?;
        Ok(socket.recv(&mut bytes).is_ok())
    })
}

fn measure(options: &Options, mut round_trip: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut samples = Samples::default();
    let mut lost = 0;
    let started = Instant::now();
    for nth in 0..options.count + WARM_UP {
        let before = Instant::now();
        match round_trip()? {
            true if nth >= WARM_UP => samples.add(before.elapsed()),
            true => {}
            false => lost += 1,
        }
        if started.elapsed() > Duration::from_secs(options.seconds) {
            break;
        }
    }
    println!(r#"{{{},"lost":{lost},"seconds":{:.3}}}"#, samples.json(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Round trips not counted: the first ones open the flow and fill caches.
const WARM_UP: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(5);
