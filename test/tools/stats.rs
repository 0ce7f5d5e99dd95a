//! Percentiles, and the socket helpers every subcommand shares.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Durations to be summed up in microseconds.
#[derive(Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e6);
    }

    /// The members of a JSON object: count, p50, p90, p99 and the largest, in microseconds.
    pub fn json(mut self) -> String {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| match self.0.len() {
            0 => 0.0,
            n => self.0[((n as f64 * share) as usize).min(n - 1)],
        };
        format!(
            r#""count":{},"p50_us":{:.1},"p90_us":{:.1},"p99_us":{:.1},"max_us":{:.1}"#,
            self.0.len(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        )
    }
}

/// A TCP listener with a backlog no burst of a test overruns; on an IPv6 wildcard it takes IPv4 as well.
pub fn listen(at: SocketAddr, congestion: Option<&str>) -> Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    set_congestion(&socket, congestion)?;
    socket.bind(&at.into()).with_context(|| format!("cannot bind TCP {at}"))?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// A connected TCP stream with `TCP_NODELAY`.
pub fn connect(to: SocketAddr, congestion: Option<&str>, timeout: Duration) -> Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    set_congestion(&socket, congestion)?;
    socket.connect_timeout(&SockAddr::from(to), timeout).with_context(|| format!("cannot connect to {to}"))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

fn set_congestion(socket: &Socket, name: Option<&str>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    socket.set_tcp_congestion(name.as_bytes()).with_context(|| format!("cannot use congestion control {name}"))
}

/// Makes standard input's end an event for a mio loop: a thread reads to the end and calls the waker.
pub fn wake_at_end_of_input(waker: mio::Waker) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = waker.wake();
        // Closing its descriptor would take the event back if nobody has seen it yet.
        std::mem::forget(waker);
    });
}

/// Raises the limit of open descriptors to what is allowed: thousands of sockets live at the same time.
pub fn raise_descriptor_limit() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
