//! Plays one script once: as the guest on the link, as the program at the host's socket, and as the clock.

mod engine;
mod guest;
mod host;

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::Variant;
use super::parse::{Act, Step};
use super::rules::{Rules, later};
use super::segment::{ACK, Bases, Came, Number, RST, SYN, Told};
use crate::LOOPBACKS;
use crate::world::World;

/// The wheel of timers is late by a tick or two of a millisecond, never early; but what was late may be followed in time.
const EARLY: Duration = Duration::from_millis(3);
const LATE: Duration = Duration::from_millis(5);

/// The shortest step of time.
const TICK: Duration = Duration::from_micros(100);

/// How long the kernel may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Initial number of one side, and what follows the highest number it has used.
#[derive(Clone, Copy)]
struct Numbers {
    isn: u32,
    next: u32,
}

impl Numbers {
    fn new(isn: u32) -> Numbers {
        Numbers { isn, next: isn }
    }

    fn find(&self, n: Number) -> u32 {
        match n {
            Number::Relative(n) => self.isn.wrapping_add(n as u32),
            Number::Absolute(n) => n,
            Number::Next(n) => self.next.wrapping_add(n as u32),
            Number::Latest => self.next,
        }
    }
}

pub struct Player {
    w: World,
    v: Variant,
    guest: Numbers,
    engine: Numbers,
    rules: Rules,
    /// The guest's last window field.
    window: u16,
    guest_port: u16,
    remote_port: u16,
    listener: Option<TcpListener>,
    host: Option<TcpStream>,
    /// What keeps the listener from answering.
    idlers: Vec<TcpStream>,
    /// Bytes that the host has written, and where it reads next.
    written: usize,
    read_at: usize,
    /// The last SYN of the guest, and the engine's highest acknowledgment number.
    syn: Came,
    acked: u32,
    queue: VecDeque<Came>,
    elapsed: Duration,
    /// The last line was of the host.
    host_acts: bool,
    /// What was said so far.
    pub log: Vec<String>,
}

impl Player {
    pub fn new(v: Variant) -> Player {
        let mut w = if v.offloads { World::offloading(1500) } else { World::plain() };
        w.freeze();
        let listener = TcpListener::bind(LOOPBACKS[usize::from(v.v6)]).expect("loopback");
        let remote_port = listener.local_addr().expect("bound").port();
        let (guest, engine) = (Numbers::new(v.isns.0), Numbers::new(v.isns.1));
        let mut p = Player {
            w,
            v,
            guest,
            engine,
            rules: Rules::new(usize::from(link_mss(v.v6)), guest.isn, engine.isn),
            window: u16::MAX,
            guest_port: 4000,
            remote_port,
            listener: Some(listener),
            host: None,
            idlers: Vec::new(),
            written: 0,
            read_at: 0,
            syn: Came::default(),
            acked: guest.isn,
            queue: VecDeque::new(),
            elapsed: Duration::ZERO,
            host_acts: false,
            log: Vec::new(),
        };
        p.aim();
        p
    }

    /// Sets the clock such that the engine's initial number for this flow is the one wanted: RFC 9293 §3.4.1 lets it follow
    /// a clock of 4 µs.
    fn aim(&mut self) {
        let domain = if self.v.v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
        let from: SocketAddr = LOOPBACKS[usize::from(self.v.v6)].parse().expect("an address");
        assert!(self.w.socket_came(socket, SocketAddr::new(from.ip(), self.remote_port), self.guest_port));
        let syn = self.w.seen().remove(0);
        let away = Came { flags: RST | ACK, seq: 1, ack: syn.seq.wrapping_add(1), ..Came::default() };
        self.w.guest_sends(&[away.frame(self.v.v6, (self.guest_port, self.remote_port), &[])]);
        assert!(self.w.tcp.is_empty());
        self.w.skip(Duration::from_micros(4 * u64::from(self.engine.isn.wrapping_sub(syn.seq))));
    }

    /// # Errors
    /// What was expected and what came.
    pub fn play(&mut self, step: &Step) -> Result<(), String> {
        // What the host does in a row, it does before the engine looks.
        let again = matches!(step.act, Act::Host(_)) && self.host_acts;
        self.host_acts = matches!(step.act, Act::Host(_));
        match &step.act {
            Act::Engine(e) if e.after.is_none() => return self.engine(e),
            _ if again => {}
            _ => self.quiet()?,
        }
        match &step.act {
            Act::Engine(e) => {
                let (from, to) = e.after.expect("else it is at once");
                self.wait(from, to)?;
                self.engine(e)
            }
            Act::Connected(by_guest, syn) => self.connect(by_guest.unwrap_or(self.v.by_guest), syn),
            Act::Guest(batch) => {
                self.send(batch);
                Ok(())
            }
            Act::GuestFills => self.fill(),
            Act::Nothing(time) => {
                self.pass(self.elapsed + *time)?;
                self.turn(0)?;
                self.quiet()
            }
            Act::Host(act) => self.host(*act),
        }
    }

    /// Behind the last line.
    pub fn finish(&mut self) -> Result<(), String> {
        self.turn(0)?;
        self.quiet()
    }

    /// Nothing may come that the script has not said.
    fn quiet(&mut self) -> Result<(), String> {
        self.turn(0)?;
        match self.queue.front() {
            Some(c) => Err(format!("nothing was to come, but {}", self.told(c))),
            None => Ok(()),
        }
    }

    fn told(&self, c: &Came) -> String {
        Told(c, self.bases()).to_string()
    }

    fn bases(&self) -> Bases {
        let stamp = self.rules.stamps().0.unwrap_or(0);
        Bases { seq: self.engine.isn, ack: self.guest.isn, stamp, echo: self.v.stamps }
    }

    fn skip(&mut self, time: Duration) {
        self.elapsed += time;
        self.w.skip(time);
    }

    fn say(&mut self, text: String) {
        self.log.push(format!("{:>10.3} s  {text}", self.elapsed.as_secs_f64()));
    }

    fn turn(&mut self, ms: u64) -> Result<(), String> {
        self.w.turn(ms);
        for seen in self.w.seen() {
            for c in Came::read(&seen)? {
                let told = format!("engine {}", self.told(&c));
                self.say(told);
                if (seen.dst_port, seen.src_port) != (self.guest_port, self.remote_port) {
                    return Err(format!("of another connection: {}", self.told(&c)));
                }
                // A new connection of the same name begins with numbers that the script is to announce.
                if !(c.has(SYN) && self.rules.agreed()) {
                    self.take_note(&c)?;
                }
                self.queue.push_back(c);
            }
        }
        Ok(())
    }

    fn take_note(&mut self, c: &Came) -> Result<(), String> {
        self.rules.check(c, self.written, self.elapsed).map_err(|e| format!("{e}: {}", self.told(c)))?;
        if !c.has(RST) {
            self.engine.next = later(self.engine.next, c.end());
            if c.has(ACK) {
                self.acked = later(self.acked, c.ack);
            }
        }
        Ok(())
    }

    /// Lets time pass until something comes, which must be in this span.
    fn wait(&mut self, from: Duration, to: Duration) -> Result<(), String> {
        let begin = self.elapsed;
        self.pass(begin + from.saturating_sub(EARLY))?;
        self.quiet()?;
        self.pass(begin + to + LATE)?;
        if self.queue.is_empty() { Err("nothing came in time".to_owned()) } else { Ok(()) }
    }

    /// Lets time pass from timer to timer, until something comes.
    fn pass(&mut self, until: Duration) -> Result<(), String> {
        while self.queue.is_empty() && self.elapsed < until {
            let timer = self.w.timers.next().map_or(Duration::MAX, |t| t.since(self.w.now()));
            self.skip(timer.max(TICK).min(until - self.elapsed));
            self.turn(0)?;
        }
        Ok(())
    }
}

/// The largest payload of a segment in a packet of 1500 bytes.
fn link_mss(v6: bool) -> u16 {
    if v6 { 1440 } else { 1460 }
}
