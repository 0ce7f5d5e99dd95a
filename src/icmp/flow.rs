//! One echo flow: its ping socket and what is remembered about it.

use std::io;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::base::{Addr, Endpoint, Instant};
use crate::flow::Traffic;
use crate::fwd::Outbound;
use crate::guest::SentHeader;
use crate::sys::fields::{self, SendFields};
use crate::sys::{dgram, socket};

#[derive(Debug)]
pub struct Flow {
    pub socket: Socket,
    /// Where requests go on the host's side.
    pub target: Addr,
    pub born: Instant,
    pub last_used: Instant,
    pub traffic: Traffic,
    pub sent: Option<SentHeader>,
    pub fields: Option<SendFields>,
    /// In the run queue.
    pub queued: bool,
}

impl Flow {
    pub fn new(socket: Socket, target: Addr, now: Instant) -> Flow {
        Flow {
            socket,
            target,
            born: now,
            last_used: now,
            traffic: Traffic::default(),
            sent: None,
            fields: None,
            queued: false,
        }
    }
}

impl Flow {
    /// See [`socket::renew_source`].
    pub fn renew_source(&self, scope: u32) -> bool {
        socket::renew_source(
            &self.socket,
            Endpoint::new(self.target, 0).to_std_scoped(scope),
            scope,
            socket::has_address,
        )
    }
}

/// Why there is no socket.
#[derive(Debug)]
pub enum OpenError {
    /// `net.ipv4.ping_group_range` has none of our groups.
    Forbidden,
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(e: io::Error) -> OpenError {
        OpenError::Io(e)
    }
}

/// A ping socket with `identifier` if no other on this host has it, connected to `target`.
pub fn open(identifier: u16, target: Addr, outbound: &Outbound) -> Result<Socket, OpenError> {
    let v4 = target.is_v4();
    let (domain, protocol) = if v4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let socket = socket::open(domain, Type::DGRAM, Some(protocol)).map_err(|e| match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => OpenError::Forbidden,
        _ => OpenError::Io(e),
    })?;
    fields::ask_for_details(socket.as_fd(), v4)?;
    let (device, own) = outbound.binding(&target);
    if let Some(device) = device {
        socket.bind_device(Some(device.to_bytes()))?;
    }
    let bind = |identifier| socket.bind(&Endpoint::new(own, identifier).to_std().into());
    match bind(identifier) {
        Err(e) if e.raw_os_error() == Some(libc::EADDRINUSE) => bind(0)?,
        other => other?,
    }
    dgram::connect(&socket, Endpoint::new(target, 0).to_std_scoped(outbound.scope), outbound.scope)?;
    Ok(socket)
}
