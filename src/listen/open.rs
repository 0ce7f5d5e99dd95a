//! Binding: a port, a rule, all rules at start.

use std::io;

use nix::errno::Errno;
use socket2::Socket;

use super::{BindError, Forward, ForwardId, Forwards, Listener, Reason};
use crate::base::{Addr, Endpoint, Family};
use crate::fwd::ports::Rule;
use crate::fwd::{Proto, Side};
use crate::sys::is_exhaustion;
use crate::sys::sockets::{Bind, Device, Sockets, Transport, Wanted};

/// Families and options all listeners share.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub v4: bool,
    pub v6: bool,
    pub freebind: bool,
}

/// Why the start fails.
#[derive(Debug, thiserror::Error)]
#[error("{error} for option '{origin}'")]
pub struct Failure {
    pub error: BindError,
    pub origin: String,
}

/// Ports of `all` and of exclusions that are not listened on.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Ports asked for by such options.
    pub asked: usize,
    pub open: usize,
    /// Not tried, or not to be had, for lack of descriptors.
    pub no_descriptors: usize,
    /// The lowest port that was refused for another reason.
    pub first: Option<BindError>,
    /// The options.
    pub origins: Vec<String>,
    /// Every port that was refused for another reason.
    pub refused: Vec<(ForwardId, u16, Errno)>,
}

/// Opens at start, in the namespace `on` that `sockets` makes sockets of, whatever does not wait for the other side. Rules
/// that do not name their ports get `room` sockets, all together.
///
/// # Errors
/// The first port of an exact rule that cannot be bound; the first port of an option none of whose ports can be.
pub fn open_all(
    forwards: &Forwards,
    on: Side,
    room: usize,
    options: &Options,
    sockets: &mut dyn Sockets,
) -> Result<(Vec<Listener>, LeftOut), Failure> {
    let mut listeners = Vec::new();
    let (lenient, exact): (Vec<_>, Vec<_>) =
        forwards.iter().filter(|(_, f)| f.on == on && !f.rule.auto).partition(|(_, f)| f.rule.best_effort);
    for (id, forward) in exact {
        let opened = open_rule(id, forward, options, sockets)
            .map_err(|error| Failure { error, origin: forward.origin.clone() })?;
        listeners.extend(opened);
    }
    let left_out = open_lenient(&lenient, room, options, sockets, &mut listeners)?;
    Ok((listeners, left_out))
}

fn open_lenient(
    lenient: &[(ForwardId, &Forward)],
    room: usize,
    options: &Options,
    sockets: &mut dyn Sockets,
    listeners: &mut Vec<Listener>,
) -> Result<LeftOut, Failure> {
    let mut out = LeftOut::default();
    let mut reached: Vec<Reached<'_>> = Vec::new();
    let mut ports = Vec::new();
    for (_, forward) in lenient {
        let option = reached.iter().position(|r| r.origin == forward.origin).unwrap_or_else(|| {
            reached.push(Reached { origin: &forward.origin, some: false, first: None });
            reached.len() - 1
        });
        let nth = ports.len();
        ports.extend((forward.rule.first..=forward.rule.last).map(|p| (p, option, 0)));
        let rule = out.origins.len();
        out.origins.push(forward.origin.clone());
        ports[nth..].iter_mut().for_each(|p| p.2 = rule);
    }
    out.origins.dedup();
    out.asked = ports.len();
    ports.sort_unstable();
    let until = listeners.len().saturating_add(room);
    for (i, (port, option, rule)) in ports.iter().enumerate() {
        let (id, forward) = lenient[*rule];
        let opened =
            if listeners.len() < until { open_port(id, forward, *port, options, sockets) } else { Err(full()) };
        match opened {
            Ok(sockets) => {
                listeners.extend(sockets);
                out.open += 1;
                reached[*option].some = true;
            }
            Err(e) if is_exhaustion(&e) => {
                out.no_descriptors = ports.len() - i;
                ports[i..].iter().for_each(|(_, option, _)| reached[*option].some = true);
                break;
            }
            Err(e) => {
                out.refused.push((id, *port, errno(&e)));
                reached[*option].first.get_or_insert(BindError { port: *port, source: Reason(e) });
            }
        }
    }
    for r in &mut reached {
        if let Some(error) = r.first.take() {
            if !r.some {
                return Err(Failure { error, origin: r.origin.to_string() });
            }
            if out.first.as_ref().is_none_or(|f| error.port < f.port) {
                out.first = Some(error);
            }
        }
    }
    Ok(out)
}

/// What became of one option.
struct Reached<'a> {
    origin: &'a str,
    /// A port is open, or might be if there were descriptors.
    some: bool,
    first: Option<BindError>,
}

/// What the kernel said; nothing is forwarded by what it did not even hear of.
pub fn errno(e: &io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EINVAL))
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(libc::EMFILE)
}

/// Binds every port of a rule, or none.
///
/// # Errors
/// The first port that cannot be bound.
pub fn open_rule(
    id: ForwardId,
    forward: &Forward,
    options: &Options,
    sockets: &mut dyn Sockets,
) -> Result<Vec<Listener>, BindError> {
    let mut opened = Vec::new();
    for port in forward.rule.first..=forward.rule.last {
        let sockets = open_port(id, forward, port, options, sockets);
        opened.extend(sockets.map_err(|e| BindError { port, source: Reason(e) })?);
    }
    Ok(opened)
}

/// Binds one port of a rule.
///
/// # Errors
/// The kernel's.
pub fn open_port(
    id: ForwardId,
    forward: &Forward,
    port: u16,
    options: &Options,
    sockets: &mut dyn Sockets,
) -> io::Result<Vec<Listener>> {
    let rule = &forward.rule;
    let listener = |socket| Listener {
        socket,
        proto: rule.proto,
        on: forward.on,
        port,
        target_port: rule.target_port(port),
        target: rule.target,
        forward: id,
    };
    match bind(rule, rule.listen, port, options, sockets) {
        Ok(socket) => Ok(vec![listener(socket)]),
        // Kernels before 5.7 want CAP_NET_RAW to bind to a device. On the loopback its addresses do the same.
        Err(e) if forward.on == Side::Guest && e.kind() == io::ErrorKind::PermissionDenied => {
            let rule = Rule { device: None, ..rule.clone() };
            let own = |f| (rule.listen.is_none_or(|a| a.family() == f)).then(|| loopback(f));
            let mut opened = Vec::new();
            for addr in [options.v4.then(|| own(Family::V4)), options.v6.then(|| own(Family::V6))] {
                if let Some(Some(addr)) = addr {
                    opened.push(listener(bind(&rule, Some(addr), port, options, sockets)?));
                }
            }
            Ok(opened)
        }
        Err(e) => Err(e),
    }
}

fn loopback(family: Family) -> Addr {
    match family {
        Family::V4 => std::net::Ipv4Addr::LOCALHOST.into(),
        Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

/// Clients the kernel queues while the loop is busy; capped by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

fn bind(
    rule: &Rule,
    listen: Option<Addr>,
    port: u16,
    options: &Options,
    sockets: &mut dyn Sockets,
) -> io::Result<Socket> {
    let family = match listen {
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
        local: Endpoint::new(listen.unwrap_or(Addr::unspecified(family)), port),
        device,
        only_v6: listen.is_some() || !options.v4,
        freebind: options.freebind,
        backlog,
    };
    let socket = sockets.make(&Wanted { transport, family, bind: Some(bind) })?;
    if transport == Transport::Udp {
        // Needed to bind beside flows that began at the port. From now on it would let another instance, which starts
        // while we do, have the same port, and the later one all datagrams.
        socket.set_reuse_address(false)?;
    }
    Ok(socket)
}

impl LeftOut {
    /// One sentence for the log; `None` if every port is open.
    pub fn summary(&self, open_files: usize) -> Option<String> {
        if self.open == self.asked {
            return None;
        }
        let mut text =
            format!("{} of {} ports of '{}' are forwarded", self.open, self.asked, self.origins.join("', '"));
        let refused = self.asked - self.open - self.no_descriptors;
        if let Some(first) = &self.first {
            text += &format!("; {refused} cannot be bound here, the first is {} ({})", first.port, first.source);
        }
        if self.no_descriptors > 0 {
            text += &format!(
                "; {} are left out because the limit on open files is {open_files}, half of it kept for connections: \
                 raise it (`ulimit -Hn {}`) or name fewer ports",
                self.no_descriptors,
                (2 * self.asked + SPARE).next_multiple_of(1024)
            );
        }
        Some(text)
    }
}

/// Descriptors beside those for ports and as many for connections, when advice is given.
const SPARE: usize = 64;

#[cfg(test)]
mod tests;
