//! Sockets that belong to a network namespace: this process's own, or another one where somebody makes them for us. A
//! socket stays in the namespace it was made in, wherever its descriptor travels.
//!
//! System calls: socket, setsockopt, bind, listen, ioctl (`SIOCGIFINDEX`).

use std::io;
use std::net::SocketAddrV6;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::socket;
use crate::base::{Addr, Endpoint, Family};

/// A socket to be made: non-blocking, close-on-exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub transport: Transport,
    pub family: Family,
    pub bind: Option<Bind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// What a socket is bound to, with `SO_REUSEADDR`: port 0 is the kernel's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    pub local: Endpoint,
    /// The only device it hears.
    pub device: Option<Device>,
    /// An IPv6 socket that IPv4 packets do not reach.
    pub only_v6: bool,
    /// The address need not exist.
    pub freebind: bool,
    /// TCP: clients the kernel queues; `None`: not listening.
    pub backlog: Option<i32>,
}

impl Bind {
    pub fn to(local: Endpoint) -> Bind {
        Bind { local, device: None, only_v6: false, freebind: false, backlog: None }
    }
}

/// Name of a network device, in the kernel's form: zero-padded, at most 15 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device(pub [u8; libc::IFNAMSIZ]);

impl Device {
    pub const LO: Device = Device(*b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0");

    /// `None` if the kernel takes no such name.
    pub fn new(name: &str) -> Option<Device> {
        let mut bytes = [0; libc::IFNAMSIZ];
        bytes[..libc::IFNAMSIZ - 1].get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Device(bytes))
    }

    pub fn name(&self) -> &[u8] {
        self.0.split(|b| *b == 0).next().unwrap_or_default()
    }
}

/// Makes sockets of one network namespace.
pub trait Sockets {
    /// # Errors
    /// The kernel's, in either namespace.
    fn make(&mut self, wanted: &Wanted) -> io::Result<Socket>;
}

/// Sockets of the namespace this process is in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Here;

impl Sockets for Here {
    fn make(&mut self, wanted: &Wanted) -> io::Result<Socket> {
        let domain = if wanted.family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let (kind, protocol) = match wanted.transport {
            Transport::Tcp => (Type::STREAM, Protocol::TCP),
            Transport::Udp => (Type::DGRAM, Protocol::UDP),
        };
        let socket = socket::open(domain, kind, Some(protocol))?;
        if let Some(bind) = &wanted.bind {
            bind_as(&socket, wanted.family, bind)?;
        }
        Ok(socket)
    }
}

/// A socket to ask the kernel about the sockets of the namespace this process is in (sock_diag(7)). Blocking,
/// close-on-exec.
///
/// # Errors
/// The kernel's, `EPROTONOSUPPORT` where it has no sock_diag.
pub fn diag() -> io::Result<Socket> {
    let protocol = Protocol::from(libc::NETLINK_SOCK_DIAG);
    Socket::new(Domain::from(libc::AF_NETLINK), Type::from(libc::SOCK_RAW).cloexec(), Some(protocol))
}

/// Where nobody makes sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Sockets for Nobody {
    fn make(&mut self, _: &Wanted) -> io::Result<Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn bind_as(socket: &Socket, family: Family, bind: &Bind) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    if family == Family::V6 {
        socket.set_only_v6(bind.only_v6)?;
    }
    if bind.freebind {
        if family == Family::V4 { socket.set_freebind_v4(true)? } else { socket.set_freebind_v6(true)? }
    }
    if let Some(device) = &bind.device {
        socket.bind_device(Some(device.name()))?;
    }
    socket.bind(&address(&bind.local, bind.device.as_ref()))?;
    match bind.backlog {
        Some(backlog) => socket.listen(backlog),
        None => Ok(()),
    }
}

/// A link-local address is one only together with its interface.
fn address(local: &Endpoint, device: Option<&Device>) -> SockAddr {
    let Endpoint { addr, port } = *local;
    match addr.to_v6() {
        Some(a) if Addr::is_link_local(&addr) => {
            let scope = device.and_then(|d| nix::net::if_::if_nametoindex(d.name()).ok()).unwrap_or(0);
            SockAddr::from(SocketAddrV6::new(a, port, 0, scope))
        }
        _ => local.to_std().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_or_are_refused() {
        assert_eq!(Device::new("lo"), Some(Device::LO));
        assert_eq!(Device::new("fifteen-letters").unwrap().name(), b"fifteen-letters");
        assert_eq!(Device::new("sixteen--letters"), None);
    }

    #[test]
    fn a_listening_socket_hears_its_port() {
        let local = Endpoint::new(Addr::v4([127, 0, 0, 1]), 0);
        let bind = Bind { backlog: Some(1), device: Some(Device::LO), ..Bind::to(local) };
        let wanted = Wanted { transport: Transport::Tcp, family: Family::V4, bind: Some(bind) };
        let listener = Here.make(&wanted).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        assert!(std::net::TcpStream::connect(addr).is_ok());
    }
}
