//! Finds the facts: files of `/proc` and `/sys`, sockets that are made and closed, and the trials.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::Path;

use ::caps::Capability;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, eaccess};
use socket2::{Domain, Protocol, Socket, Type};

use super::facts::{Errno, Facts, Ipv6, Network, Route, RuntimeDir, Sysctl, UdpOffloads};
use super::trial::{self, errno};
use crate::base::{Family, PerFamily};
use crate::fwd::ports::Bound;
use crate::host::{self, SockDiag};
use crate::sys::{caps, landlock, probe, sockopt, tun};
use crate::tcp;

pub fn gather() -> Facts {
    Facts {
        release: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
        machine: std::env::consts::ARCH,
        inside: trial::namespaces(),
        sysctl: sysctl(),
        tun: fs::File::options().read(true).write(true).open(tun::DEVICE).map(drop).map_err(errno),
        isolation: trial::isolation(),
        seccomp: probe::seccomp_filter().map_err(errno),
        landlock: landlock::version().map_err(errno),
        modules: text("/sys/kernel/security/lsm"),
        apparmor: apparmor(),
        selinux_enforces: text("/sys/fs/selinux/enforce").map(|t| t == "1"),
        groups: groups(),
        ping: ping(),
        binds_low_ports: caps::effective(Capability::CAP_NET_BIND_SERVICE),
        peek_offset: PerFamily::new(tcp::has_peek_offset(Family::V4), tcp::has_peek_offset(Family::V6)),
        udp: udp(),
        socket_lists: SockDiag::open().and_then(|mut diag| diag.scan(&mut Bound::default())).map_err(errno),
        ipv6: ipv6(),
        open_files: getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default(),
        runtime_dir: runtime_dir(),
        network: network(),
    }
}

/// A file's text without the line's end; `None` if it cannot be read or is empty.
fn text(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().trim_end_matches('\0').to_owned()).filter(|t| !t.is_empty())
}

fn sysctl() -> Sysctl {
    let number = |name: &str| text(&format!("/proc/sys/{name}"))?.parse().ok();
    Sysctl {
        max_user_namespaces: number("user/max_user_namespaces"),
        max_net_namespaces: number("user/max_net_namespaces"),
        unprivileged_userns_clone: number("kernel/unprivileged_userns_clone"),
        apparmor_restricts: number("kernel/apparmor_restrict_unprivileged_userns"),
        ping_groups: text("/proc/sys/net/ipv4/ping_group_range").and_then(|t| range(&t)),
        first_port: number("net/ipv4/ip_unprivileged_port_start").and_then(|n| u16::try_from(n).ok()),
    }
}

/// Two numbers.
fn range(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The profile of this process, where AppArmor is on. Its own file is newer than what all security modules share.
fn apparmor() -> Option<String> {
    if text("/sys/module/apparmor/parameters/enabled")? != "Y" {
        return None;
    }
    let profile = text("/proc/self/attr/apparmor/current").or_else(|| text("/proc/self/attr/current"));
    Some(profile.unwrap_or_else(|| "unknown".into()))
}

fn groups() -> Vec<u32> {
    let more = nix::unistd::getgroups().unwrap_or_default();
    std::iter::once(nix::unistd::getegid()).chain(more).map(nix::unistd::Gid::as_raw).collect()
}

fn ping() -> Result<(), Errno> {
    Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)).map(drop).map_err(errno)
}

fn udp() -> UdpOffloads {
    /// Any length of a datagram will do.
    const SEGMENT: i32 = 1200;
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else { return UdpOffloads::default() };
    let takes = |option, value| sockopt::set(socket.as_fd(), libc::SOL_UDP, option, value).is_ok();
    UdpOffloads { gro: takes(libc::UDP_GRO, 1), gso: takes(libc::UDP_SEGMENT, SEGMENT) }
}

fn ipv6() -> Ipv6 {
    match text("/proc/sys/net/ipv6/conf/all/disable_ipv6").as_deref() {
        _ if !host::has_ipv6() => Ipv6::NotInKernel,
        Some("1") => Ipv6::Off,
        _ => Ipv6::On,
    }
}

fn runtime_dir() -> RuntimeDir {
    let Some(path) = std::env::var_os("XDG_RUNTIME_DIR").filter(|p| !p.is_empty()) else { return RuntimeDir::Unset };
    let shown = path.to_string_lossy().into_owned();
    let path = Path::new(&path);
    let usable = match fs::metadata(path) {
        Ok(found) if !found.is_dir() => Err(libc::ENOTDIR),
        Ok(_) => eaccess(path, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|e| e as Errno),
        Err(e) => Err(errno(e)),
    };
    match usable {
        Ok(()) => RuntimeDir::Usable(shown),
        Err(e) => RuntimeDir::Unusable(shown, e),
    }
}

fn network() -> Result<Network, String> {
    let found = host::read(&host::Select::default()).map_err(|e| e.to_string())?;
    let route = |family: Family| {
        let Some(template) = &found.families[family] else { return Route::default() };
        Route {
            interface: template.interface.as_ref().map(|i| i.name.clone()),
            address: template.addr.as_ref().map(|p| p.addr.to_string()),
            gateway: template.gateway.map(|g| g.to_string()),
            has_default: template.routes.iter().any(crate::base::Route::is_default),
        }
    };
    let servers = &found.resolv.nameservers;
    Ok(Network {
        families: PerFamily::new(route(Family::V4), route(Family::V6)),
        servers: servers.v4.iter().chain(&servers.v6).map(ToString::to_string).collect(),
        resolv_conf_exists: !found.resolv.is_missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_two_numbers() {
        assert_eq!(range("0\t2147483647"), Some((0, 2147483647)));
        assert_eq!(range("1 0"), Some((1, 0)));
        assert_eq!((range(""), range("1"), range("x y")), (None, None, None));
    }

    #[test]
    fn files_that_are_not_there_are_no_text() {
        assert_eq!((text("/no/such/file"), text("/dev/null")), (None, None));
    }
}
