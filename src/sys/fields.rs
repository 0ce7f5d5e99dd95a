//! IP header fields of what a datagram socket sends, set only where they change.

use std::io;
use std::os::fd::BorrowedFd;

use super::sockopt;

/// TTL, TOS and fragmentation of the datagrams sent from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFields {
    /// TTL or hop limit, 1 to 255.
    pub ttl: u8,
    /// TOS or traffic class, ECN included.
    pub tos: u8,
    /// Refuse (`EMSGSIZE`) what exceeds the path MTU instead of fragmenting it on this host.
    pub refuse_oversized: bool,
}

impl SendFields {
    /// Makes them so on a socket that has `old`.
    ///
    /// # Errors
    /// The kernel's; fields before the refused one are set.
    pub fn apply(&self, fd: BorrowedFd<'_>, v4: bool, old: Option<&SendFields>) -> io::Result<()> {
        if old.is_none_or(|o| o.ttl != self.ttl) {
            let ttl = i32::from(self.ttl.max(1));
            if v4 {
                sockopt::set(fd, libc::IPPROTO_IP, libc::IP_TTL, ttl)?;
                sockopt::set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, ttl)?;
            } else {
                sockopt::set(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl)?;
                sockopt::set(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, ttl)?;
            }
        }
        if old.map_or(self.tos != 0, |o| o.tos != self.tos) {
            let (level, name) =
                if v4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
            sockopt::set(fd, level, name, i32::from(self.tos))?;
        }
        if old.is_none_or(|o| o.refuse_oversized != self.refuse_oversized) {
            let mode = |refuse, fragment| if self.refuse_oversized { refuse } else { fragment };
            if v4 {
                let value = mode(libc::IP_PMTUDISC_DO, libc::IP_PMTUDISC_WANT);
                sockopt::set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value)?;
            } else {
                let value = mode(libc::IPV6_PMTUDISC_DO, libc::IPV6_PMTUDISC_WANT);
                sockopt::set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, value)?;
            }
        }
        Ok(())
    }
}

/// Asks for TTL and TOS of what is received, and for errors to be queued with their senders.
///
/// # Errors
/// The kernel's.
pub fn ask_for_details(fd: BorrowedFd<'_>, v4: bool) -> io::Result<()> {
    let (level, names) = if v4 {
        (libc::IPPROTO_IP, [libc::IP_RECVERR, libc::IP_RECVTTL, libc::IP_RECVTOS])
    } else {
        (libc::IPPROTO_IPV6, [libc::IPV6_RECVERR, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS])
    };
    names.into_iter().try_for_each(|name| sockopt::set(fd, level, name, 1))
}

/// Path MTU of a connected socket, as the kernel knows it now.
///
/// # Errors
/// The kernel's.
pub fn path_mtu(fd: BorrowedFd<'_>, v4: bool) -> io::Result<u32> {
    let (level, name) = if v4 { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    sockopt::get(fd, level, name).map(|mtu| mtu.max(0) as u32)
}
