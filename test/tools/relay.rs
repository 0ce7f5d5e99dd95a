//! A slow, lossy link: two taps in two namespaces, each frame delivered a fixed time after it came, some of them never.
//! This kernel has no netem.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::pattern::{INCREMENT, mix};
use crate::tun;

#[derive(clap::Args)]
pub struct Options {
    /// First end: file of a network namespace, colon, name of the tap to create
    #[arg(long)]
    a: String,
    /// Second end
    #[arg(long)]
    b: String,
    /// Delay each way
    #[arg(long, default_value_t = 0.0)]
    delay_ms: f64,
    /// Share of packets lost, each way
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Bits a second, each way, in millions; 0 is without limit
    #[arg(long, default_value_t = 0.0)]
    rate_mbit: f64,
    /// Bytes under way, each way; what comes on top is dropped
    #[arg(long, default_value_t = 256 << 20)]
    queue_bytes: usize,
    /// Seed of the losses
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Frames no longer than the MTU: each lost packet is one segment
    #[arg(long)]
    no_offload: bool,
    /// Stop after this time
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

pub fn run(options: &Options) -> Result<()> {
    let a = tun::open(&options.a, !options.no_offload)?;
    let b = tun::open(&options.b, !options.no_offload)?;
    // The default of 50 us would be added to every delay.
    nix::sys::prctl::set_timerslack(1)?;
    println!(r#"{{"ready":true}}"#);
    let mut to_b = Direction::new(options, 0);
    let mut to_a = Direction::new(options, 1);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut room = vec![0; 1 << 17];
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        to_b.deliver(&b, now);
        to_a.deliver(&a, now);
        let next = [to_a.next_due(), to_b.next_due(), Some(end)].into_iter().flatten().min().expect("the end is one");
        let stdin = std::io::stdin();
        let mut polled = [
            PollFd::new(a.as_fd(), PollFlags::POLLIN),
            PollFd::new(b.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        let patience = TimeSpec::from(next.saturating_duration_since(Instant::now()));
        ppoll(&mut polled, Some(patience), None)?;
        let ready: Vec<bool> = polled.iter().map(|p| p.any().unwrap_or(true)).collect();
        if ready[2] {
            break;
        }
        if ready[0] {
            to_b.take(&a, &mut room);
        }
        if ready[1] {
            to_a.take(&b, &mut room);
        }
    }
    println!(r#"{{"a_to_b":{},"b_to_a":{}}}"#, to_b.json(), to_a.json());
    Ok(())
}

struct Direction {
    delay: Duration,
    loss: f64,
    bytes_per_second: f64,
    queue_bytes: usize,
    random: u64,
    /// With a rate: when the last frame taken will have left.
    idle_at: Instant,
    waiting: VecDeque<(Instant, Vec<u8>)>,
    held_bytes: usize,
    delivered: u64,
    lost: u64,
    overrun: u64,
}

impl Direction {
    fn new(options: &Options, nth: u64) -> Direction {
        Direction {
            delay: Duration::from_secs_f64(options.delay_ms / 1000.0),
            loss: options.loss,
            bytes_per_second: options.rate_mbit * 1e6 / 8.0,
            queue_bytes: options.queue_bytes,
            random: mix(options.seed.wrapping_mul(2).wrapping_add(nth)),
            idle_at: Instant::now(),
            waiting: VecDeque::new(),
            held_bytes: 0,
            delivered: 0,
            lost: 0,
            overrun: 0,
        }
    }

    /// Takes a bounded number of frames, so that deliveries are not held up.
    fn take(&mut self, from: &File, room: &mut [u8]) {
        for _ in 0..64 {
            let n = match (&*from).read(room) {
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let now = Instant::now();
            if self.next_random() < self.loss {
                self.lost += 1;
            } else if self.held_bytes + n > self.queue_bytes {
                self.overrun += 1;
            } else {
                let mut leaves = now;
                if self.bytes_per_second > 0.0 {
                    leaves = self.idle_at.max(now) + Duration::from_secs_f64(n as f64 / self.bytes_per_second);
                    self.idle_at = leaves;
                }
                self.held_bytes += n;
                self.waiting.push_back((leaves + self.delay, room[..n].to_vec()));
            }
        }
    }

    fn deliver(&mut self, to: &File, now: Instant) {
        while let Some((due, frame)) = self.waiting.front() {
            if *due > now {
                return;
            }
            // A tap takes every frame at once or refuses it for good (link down): nothing to wait for.
            let _ = (&*to).write(frame);
            self.held_bytes -= frame.len();
            self.delivered += 1;
            self.waiting.pop_front();
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    /// Uniform in 0..1.
    fn next_random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(INCREMENT);
        (mix(self.random) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn json(&self) -> String {
        format!(
            r#"{{"delivered":{},"lost":{},"overrun":{},"under_way":{}}}"#,
            self.delivered,
            self.lost,
            self.overrun,
            self.waiting.len()
        )
    }
}
