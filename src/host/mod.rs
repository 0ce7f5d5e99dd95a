//! The host's network as a template for the guest's: read at start by netlink and from resolv.conf, and again whenever it
//! changes ([`Follower`]). Its neighbour table is followed entry by entry ([`Neighbours`]).
//!
//! Goals: the guest looks like another process of the host. Per family, independently: the interface with the preferred
//! default route lends its addresses, routes and MTU; without a default route the first interface with any route; without
//! any, the family works in local mode (link-local addresses, the host reachable through the gateway address).
//!
//! [`read`] lists links, addresses and main-table routes with one dump each (about 0.3 ms together), `choose` decides and
//! does no I/O. Replies that do not decode are left out. Routes through nexthop objects are seen as long as the kernel
//! expands them (`net.ipv4.nexthop_compat_mode`, the default).
//!
//! Limits: policy routing and VRF tables are not looked at; the copied set ends at [`ROUTES_MAX`] routes an interface, for
//! a host with a full Internet table.
//!
//! [`SockDiag`] tells which ports of a namespace are in use, at start and while forwarding follows them.
//!
//! System calls: socket, bind, getsockname, setsockopt, sendto, recvfrom (netlink), openat, statx, read, close
//! (resolv.conf). At run time: sendto, recvfrom (netlink, sock_diag).

mod choose;
mod dump;
mod follow;
mod neighbours;
mod reader;
mod resolv;
mod sockdiag;

use crate::base::{Addr, Family, PerFamily, Prefix, Route};
use crate::sys::netlink::Netlink;

use choose::check_outbound;
pub use choose::choose;
pub use dump::{Address, Dump, Link, TableRoute};
pub use follow::{Follower, Look};
pub use neighbours::Neighbours;
#[doc(hidden)]
pub use neighbours::neighbours_in;
pub use reader::Reader;
pub use resolv::Resolv;
pub use sockdiag::SockDiag;
#[doc(hidden)]
pub use sockdiag::ports_in;

/// What the user chose.
#[derive(Clone, Debug)]
pub struct Select {
    /// Template interface for both families.
    pub interface: Option<String>,
    /// Interface a family's sockets are bound to: template where `interface` is not given.
    pub outbound: PerFamily<Option<String>>,
    pub v4: bool,
    pub v6: bool,
}

impl Default for Select {
    fn default() -> Self {
        Select { interface: None, outbound: PerFamily::default(), v4: true, v6: true }
    }
}

/// The host's network, as far as the guest gets to see it.
#[derive(Clone, Debug)]
pub struct Network {
    /// `None`: the family is switched off, or the kernel lacks it.
    pub families: PerFamily<Option<Template>>,
    /// Ours on the guest link: source of router advertisements and DHCPv6.
    pub our_link_local: Addr,
    pub resolv: Resolv,
    /// One sentence each, for the log.
    pub notices: Vec<String>,
}

/// One family's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// `None`: local mode.
    pub interface: Option<Interface>,
    /// The guest's own. IPv6: `None` if the interface has no global address.
    pub addr: Option<Prefix>,
    /// `None`: the chosen route has none (point-to-point link), or is no default route.
    pub gateway: Option<Addr>,
    /// All that a guest configured by us gets, `addr` first. No IPv6 link-local ones.
    pub addrs: Vec<Prefix>,
    /// All main-table routes through the interface, without IPv6 link-local ones.
    pub routes: Vec<Route>,
}

/// An interface of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// IP MTU, bytes.
    pub mtu: u32,
}

impl Network {
    /// The name a namespace's interface takes over: IPv4's, else IPv6's.
    pub fn interface_name(&self) -> Option<&str> {
        [&self.families.v4, &self.families.v6]
            .into_iter()
            .flatten()
            .find_map(|t| t.interface.as_ref())
            .map(|i| i.name.as_str())
    }
}

impl Template {
    pub fn is_local(&self) -> bool {
        self.interface.is_none()
    }
}

/// Why the host's network could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the host's {what} by netlink: {source}")]
    Netlink { what: &'static str, source: std::io::Error },
    #[error("interface `{0}` does not exist; `ip link` lists those that do")]
    NoInterface(String),
}

/// Reads the host's network from the network namespace this process is in.
///
/// # Errors
/// See [`Error`]. No network at all is not an error.
pub fn read(select: &Select) -> Result<Network, Error> {
    let ipv6 = has_ipv6();
    let mut netlink = Netlink::open().map_err(|source| Error::Netlink { what: "network", source })?;
    let dump = dump::read(&mut netlink, ipv6)?;
    check_outbound(&dump, select)?;
    let mut network = choose(&dump, &on(select, ipv6))?;
    network.resolv = Resolv::read(std::path::Path::new(RESOLV_CONF));
    Ok(network)
}

/// The same by a socket that is open, without names.
fn look(netlink: &mut Netlink, select: &Select, ipv6: bool) -> Result<Network, Error> {
    choose(&dump::read(netlink, ipv6)?, &on(select, ipv6))
}

/// Of the families, those that there are.
fn on(select: &Select, ipv6: bool) -> Select {
    Select { v6: select.v6 && ipv6, ..select.clone() }
}

/// Whether this kernel has IPv6 sockets.
pub fn has_ipv6() -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let made = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    !matches!(made, Err(nix::Error::EAFNOSUPPORT))
}

/// Mask for an address given without one (behaviour of the class that RFC 791 §3.2 put it in).
pub fn default_prefix_len(addr: &Addr) -> u8 {
    match addr.to_v4().map(|a| a.octets()[0]) {
        Some(0..128) => 8,
        Some(128..192) => 16,
        Some(192..224) => 24,
        Some(_) => 32,
        None => 64,
    }
}

/// The guest's and the gateway's address in local mode. IPv6 has only the gateway: the guest makes its own link-local.
pub fn local_mode(family: Family) -> (Option<Prefix>, Addr) {
    match family {
        Family::V4 => (Some(Prefix::new(Addr::v4([169, 254, 2, 1]), 16)), Addr::v4([169, 254, 2, 2])),
        Family::V6 => (None, LOCAL_LINK_LOCAL),
    }
}

/// fe80::1.
pub const LOCAL_LINK_LOCAL: Addr = Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// Routes copied from one interface.
pub const ROUTES_MAX: usize = 1024;
const RESOLV_CONF: &str = "/etc/resolv.conf";
