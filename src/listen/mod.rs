//! Host sockets that wait for the outside world: bound before the sandbox, accepted from in the event loop.
//!
//! Ports are bound all or none: a rule that names its ports fails on the first that cannot be had; rules made from `all`
//! skip those. When descriptors run out, a spare one is given up to accept and reset the client, so that nobody waits in
//! the backlog of a program that cannot serve, and the listener stays drained, as edge-triggered polling requires.
//!
//! System calls: those of [`crate::sys::sockets`] (to bind); accept4, setsockopt (`SO_LINGER`),
//! close, fcntl (dup of the spare).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::Socket;

use crate::base::{Addr, Endpoint, Family};
use crate::fwd::Proto;
use crate::fwd::ports::Rule;
use crate::sys::sockets::{Bind, Device, Sockets, Transport, Wanted};

/// A bound socket and where its traffic goes.
#[derive(Debug)]
pub struct Listener {
    pub socket: Socket,
    pub proto: Proto,
    /// Port in the guest.
    pub target_port: u16,
    /// Address in the guest; `None`: whichever it uses.
    pub target: Option<Addr>,
}

/// A port that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("Failed to bind port {port} ({source})")]
pub struct BindError {
    pub port: u16,
    pub source: Reason,
}

/// The kernel's errno as its plain text, without Rust's "(os error N)".
#[derive(Debug)]
pub struct Reason(pub io::Error);

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.raw_os_error() {
            Some(n) => f.write_str(nix::errno::Errno::from_raw(n).desc()),
            None => self.0.fmt(f),
        }
    }
}

impl std::error::Error for Reason {}

/// Families and options all listeners share.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub v4: bool,
    pub v6: bool,
    pub freebind: bool,
}

/// Binds every port of a rule, in the namespace that `sockets` makes sockets of.
///
/// # Errors
/// The first port that cannot be bound; for best-effort rules only if none can.
pub fn bind(rule: &Rule, options: &Options, sockets: &mut dyn Sockets) -> Result<Vec<Listener>, BindError> {
    let mut bound = Vec::new();
    let mut first_error = None;
    for port in rule.first..=rule.last {
        match bind_port(rule, port, options, sockets) {
            Ok(socket) => bound.push(Listener {
                socket,
                proto: rule.proto,
                target_port: rule.target_port(port),
                target: rule.target,
            }),
            Err(e) => {
                let e = BindError { port, source: Reason(e) };
                if !rule.best_effort {
                    return Err(e);
                }
                first_error.get_or_insert(e);
            }
        }
    }
    match first_error {
        Some(e) if bound.is_empty() => Err(e),
        _ => Ok(bound),
    }
}

/// Clients the kernel queues while the loop is busy; capped by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

fn bind_port(rule: &Rule, port: u16, options: &Options, sockets: &mut dyn Sockets) -> io::Result<Socket> {
    let family = match rule.listen {
        Some(a) => a.family(),
        None if options.v6 => Family::V6,
        None => Family::V4,
    };
    let device = match &rule.device {
        Some(name) => Some(Device::new(name).ok_or(io::ErrorKind::InvalidInput)?),
        None => None,
    };
    let (transport, backlog) = match rule.proto {
        Proto::Tcp => (Transport::Tcp, Some(BACKLOG)),
        Proto::Udp => (Transport::Udp, None),
    };
    let bind = Bind {
        local: Endpoint::new(rule.listen.unwrap_or(Addr::unspecified(family)), port),
        device,
        only_v6: rule.listen.is_some() || !options.v4,
        freebind: options.freebind,
        backlog,
    };
    sockets.make(&Wanted { transport, family, bind: Some(bind) })
}

/// What accepting once brought.
#[derive(Debug)]
pub enum Accepted {
    Client(Socket, Endpoint),
    /// No descriptor was left: the client was reset.
    Turned,
    /// Nobody is waiting.
    Empty,
}

/// Accepts clients, with a descriptor in reserve.
#[derive(Debug)]
pub struct Acceptor {
    spare: Option<OwnedFd>,
}

impl Acceptor {
    /// # Errors
    /// When there is no descriptor even now.
    pub fn new(any: &impl std::os::fd::AsFd) -> io::Result<Acceptor> {
        Ok(Acceptor { spare: Some(any.as_fd().try_clone_to_owned()?) })
    }

    /// Takes the next waiting client.
    pub fn accept(&mut self, listener: &Listener) -> Accepted {
        loop {
            match accept4(&listener.socket) {
                Ok(client) => return client,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Accepted::Empty,
                Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    if self.spare.take().is_none() {
                        return Accepted::Empty;
                    }
                    if let Ok(Accepted::Client(s, _)) = accept4(&listener.socket) {
                        let _ = s.set_linger(Some(std::time::Duration::ZERO));
                    }
                    self.spare = std::os::fd::AsFd::as_fd(&listener.socket).try_clone_to_owned().ok();
                    return Accepted::Turned;
                }
                // A client that is gone already (accept(2)), or no memory for it: look at the next.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO)) => {}
                Err(_) => return Accepted::Empty,
            }
        }
    }
}

fn accept4(socket: &Socket) -> io::Result<Accepted> {
    let (client, from) = socket.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)?;
    let from = from.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(Accepted::Client(client, from.into()))
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
