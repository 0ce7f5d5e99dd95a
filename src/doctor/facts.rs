//! What there is to know about a machine, without a judgement. The default is a machine that has nothing.

use serde::{Deserialize, Serialize};

use crate::base::PerFamily;

/// An error of the kernel's.
pub type Errno = i32;

#[derive(Clone, Debug)]
pub struct Facts {
    /// As `uname -r` prints it.
    pub release: String,
    pub machine: &'static str,
    /// Namespaces of `spelt run`, which were made.
    pub inside: Result<Inside, Errno>,
    pub sysctl: Sysctl,
    /// `/dev/net/tun`, opened for reading and writing.
    pub tun: Result<(), Errno>,
    /// Everything that is given up before a guest is served, given up by a child; the sentence that `spelt run` would end with.
    pub isolation: Result<(), String>,
    pub seccomp: Result<(), Errno>,
    /// Version of the kernel's interface.
    pub landlock: Result<usize, Errno>,
    /// Security modules of the kernel, with commas between them.
    pub modules: Option<String>,
    /// Whether AppArmor is on, and the profile of this process.
    pub apparmor: Option<String>,
    /// Whether SELinux denies what it does not allow.
    pub selinux_enforces: Option<bool>,
    /// Effective one first.
    pub groups: Vec<u32>,
    /// Whether an echo socket could be made.
    pub ping: Result<(), Errno>,
    pub binds_low_ports: bool,
    /// `SO_PEEK_OFF` for TCP.
    pub peek_offset: PerFamily<bool>,
    pub udp: UdpOffloads,
    /// Lists of sockets, for both protocols.
    pub socket_lists: Result<(), Errno>,
    pub ipv6: Ipv6,
    /// Soft and hard limit on open files.
    pub open_files: (u64, u64),
    pub runtime_dir: RuntimeDir,
    pub network: Result<Network, String>,
}

/// What a child found in namespaces of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// The user is root there.
    pub is_root: Result<(), Errno>,
    pub tap: Result<Tap, Errno>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    pub vnet_header: bool,
    pub csum: bool,
    pub tso: bool,
    pub uso: bool,
}

/// Settings, as far as the kernel has them.
#[derive(Clone, Debug, Default)]
pub struct Sysctl {
    pub max_user_namespaces: Option<u64>,
    pub max_net_namespaces: Option<u64>,
    pub unprivileged_userns_clone: Option<u64>,
    pub apparmor_restricts: Option<u64>,
    /// First and last group that may ping; the first is greater than the last: none.
    pub ping_groups: Option<(u32, u32)>,
    pub first_port: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOffloads {
    pub gro: bool,
    pub gso: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    #[default]
    NotInKernel,
    /// Every interface has it switched off.
    Off,
    On,
}

/// Where sockets of the user's own are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuntimeDir {
    #[default]
    Unset,
    Unusable(String, Errno),
    Usable(String),
}

/// What would be copied for a guest.
#[derive(Clone, Debug, Default)]
pub struct Network {
    pub families: PerFamily<Route>,
    /// The resolver of the machine: addresses as text.
    pub servers: Vec<String>,
    pub resolv_conf_exists: bool,
}

/// Of one family.
#[derive(Clone, Debug, Default)]
pub struct Route {
    pub interface: Option<String>,
    pub address: Option<String>,
    pub gateway: Option<String>,
    pub has_default: bool,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts {
            release: String::new(),
            machine: std::env::consts::ARCH,
            inside: Err(libc::EPERM),
            sysctl: Sysctl::default(),
            tun: Err(libc::ENOENT),
            isolation: Err("nothing was tried".into()),
            seccomp: Err(libc::EINVAL),
            landlock: Err(libc::ENOSYS),
            modules: None,
            apparmor: None,
            selinux_enforces: None,
            groups: Vec::new(),
            ping: Err(libc::EACCES),
            binds_low_ports: false,
            peek_offset: PerFamily::new(false, false),
            udp: UdpOffloads::default(),
            socket_lists: Err(libc::ENOENT),
            ipv6: Ipv6::default(),
            open_files: (0, 0),
            runtime_dir: RuntimeDir::default(),
            network: Err("nothing was read".into()),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// One on which nothing is wrong.
    pub fn healthy() -> Facts {
        let route = |address: &str, gateway: &str| Route {
            interface: Some("eth0".into()),
            address: Some(address.into()),
            gateway: Some(gateway.into()),
            has_default: true,
        };
        Facts {
            release: "6.18.1-test".into(),
            machine: "x86_64",
            inside: Ok(Inside {
                is_root: Ok(()),
                tap: Ok(Tap { vnet_header: true, csum: true, tso: true, uso: true }),
            }),
            sysctl: Sysctl {
                max_user_namespaces: Some(63432),
                max_net_namespaces: Some(63432),
                unprivileged_userns_clone: Some(1),
                apparmor_restricts: Some(0),
                ping_groups: Some((0, 2147483647)),
                first_port: Some(1024),
            },
            tun: Ok(()),
            isolation: Ok(()),
            seccomp: Ok(()),
            landlock: Ok(7),
            modules: Some("capability,landlock,apparmor".into()),
            apparmor: Some("unconfined".into()),
            selinux_enforces: None,
            groups: vec![1000, 27],
            ping: Ok(()),
            binds_low_ports: false,
            peek_offset: PerFamily::new(true, true),
            udp: UdpOffloads { gro: true, gso: true },
            socket_lists: Ok(()),
            ipv6: Ipv6::On,
            open_files: (1024, 524_288),
            runtime_dir: RuntimeDir::Usable("/run/user/1000".into()),
            network: Ok(Network {
                families: PerFamily::new(route("192.0.2.2", "192.0.2.1"), route("2001:db8::2", "fe80::1")),
                servers: vec!["192.0.2.53".into()],
                resolv_conf_exists: true,
            }),
        }
    }
}
