//! The start-up summary. Its shape is that of existing programs, because there are parsers for it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::base::{Addr, Mac, PerFamily};
use crate::fwd::Rule;

/// What DHCP, or NDP and DHCPv6, will tell the guest.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    /// `None` prints as the unspecified address.
    pub addr: Option<Addr>,
    /// IPv4 only.
    pub prefix: u8,
    pub router: Option<Addr>,
    /// IPv6 only.
    pub our_link_local: Option<Addr>,
}

/// The settled facts, after the host was asked. Empty parts are left out.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Where a virtual machine connects.
    pub socket: Option<PathBuf>,
    /// There with vhost-user.
    pub vhost_user: bool,
    pub template: PerFamily<Option<String>>,
    pub outbound_if: PerFamily<Option<String>>,
    pub outbound_addr: PerFamily<Option<Addr>>,
    pub ns_ifname: Option<String>,
    pub our_mac: Option<Mac>,
    /// Address as seen by the guest that leads to the host's loopback.
    pub host_loopback: PerFamily<Option<Addr>>,
    /// The DHCP server is on.
    pub dhcp: Option<Assigned>,
    /// NDP answers or the DHCPv6 server are on.
    pub ipv6: Option<Assigned>,
    pub ndp: bool,
    pub dhcpv6: bool,
    pub dns: PerFamily<Vec<Addr>>,
    pub search: Vec<String>,
    /// Host to guest. `None`: not worth a line.
    pub inbound: Option<Vec<Rule>>,
    /// Guest to host.
    pub outbound: Option<Vec<Rule>>,
}

impl Summary {
    /// One log message each; four spaces of indentation a level.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.socket.as_ref().map(|p| format!("UNIX domain socket bound at {}", p.display())));
        pair(&mut lines, "Template interface", &self.template);
        pair(&mut lines, "Outbound interface", &self.outbound_if);
        for (name, addr) in [("IPv4", self.outbound_addr.v4), ("IPv6", self.outbound_addr.v6)] {
            lines.extend(addr.map(|a| format!("Outbound {name} address: {a}")));
        }
        lines.extend(self.ns_ifname.as_ref().map(|n| format!("Namespace interface: {n}")));
        if let Some(mac) = self.our_mac {
            lines.push("MAC:".into());
            lines.push(format!("    host: {mac}"));
        }
        lines.extend(self.host_loopback.v4.map(|a| format!("    NAT to host 127.0.0.1: {a}")));
        if let Some(dhcp) = &self.dhcp {
            lines.push("DHCP:".into());
            lines.push(format!("    assign: {}", dhcp.addr.unwrap_or(Addr::V4_UNSPECIFIED)));
            lines.push(format!("    mask: {}", mask(dhcp.prefix)));
            lines.extend(dhcp.router.map(|a| format!("    router: {a}")));
        }
        self.names(&mut lines, &self.dns.v4);
        lines.extend(self.host_loopback.v6.map(|a| format!("    NAT to host ::1: {a}")));
        if let Some(ipv6) = &self.ipv6 {
            self.ipv6(&mut lines, ipv6);
        }
        self.names(&mut lines, &self.dns.v6);
        rules(&mut lines, "Inbound forwarding rules (HOST):", self.inbound.as_deref());
        rules(&mut lines, "Outbound forwarding rules (SPLICE):", self.outbound.as_deref());
        if let Some(path) = &self.socket {
            lines.push(String::new());
            lines.push("You can now start qemu (7.2 or later):".into());
            let path = path.display();
            lines.push(if self.vhost_user {
                format!(
                    "    kvm ... -chardev socket,id=c,path={path} -netdev vhost-user,id=s,chardev=c \
                     -device virtio-net-pci,netdev=s -m SIZE -object memory-backend-memfd,id=m,share=on,size=SIZE \
                     -machine memory-backend=m"
                )
            } else {
                format!(
                    "    kvm ... -device virtio-net-pci,netdev=s \
                     -netdev stream,id=s,server=off,addr.type=unix,addr.path={path}"
                )
            });
        }
        lines
    }

    fn ipv6(&self, lines: &mut Vec<String>, ipv6: &Assigned) {
        let title = match (self.ndp, self.dhcpv6) {
            (true, true) => "NDP/DHCPv6:",
            (true, false) => "NDP:",
            (false, true) => "DHCPv6:",
            (false, false) => return,
        };
        lines.push(title.into());
        lines.push(format!("    assign: {}", ipv6.addr.unwrap_or(Addr::V6_UNSPECIFIED)));
        lines.extend(ipv6.router.map(|a| format!("    router: {a}")));
        lines.extend(ipv6.our_link_local.map(|a| format!("    our link-local: {a}")));
    }

    fn names(&self, lines: &mut Vec<String>, servers: &[Addr]) {
        if servers.is_empty() {
            return;
        }
        lines.push("DNS:".into());
        lines.extend(servers.iter().map(|a| format!("    {a}")));
        if !self.search.is_empty() {
            lines.push("DNS search list:".into());
            lines.extend(self.search.iter().map(|d| format!("    {d}")));
        }
    }
}

fn pair(lines: &mut Vec<String>, title: &str, both: &PerFamily<Option<String>>) {
    let named = [("IPv4", &both.v4), ("IPv6", &both.v6)];
    let parts: Vec<_> =
        named.into_iter().filter_map(|(family, name)| Some(format!("{} ({family})", name.as_ref()?))).collect();
    if !parts.is_empty() {
        lines.push(format!("{title}: {}", parts.join(", ")));
    }
}

fn rules(lines: &mut Vec<String>, title: &str, rules: Option<&[Rule]>) {
    if let Some(rules) = rules {
        lines.push(title.into());
        lines.extend(rules.iter().map(|r| format!("    {}", r.summary())));
    }
}

fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fwd::Proto;
    use crate::fwd::ports::{Ports, Spec};

    fn a(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn all_of_it() {
        let rules = |s: Result<Spec, String>| Ports::Specs(vec![s.unwrap()]).rules(&Ports::EPHEMERAL_DEFAULT).unwrap();
        let summary = Summary {
            socket: Some("/tmp/vm.socket".into()),
            vhost_user: false,
            template: PerFamily::new(Some("eth0".into()), Some("eth1".into())),
            outbound_if: PerFamily::new(None, Some("eth1".into())),
            outbound_addr: PerFamily::new(Some(a("192.0.2.8")), None),
            ns_ifname: Some("eth0".into()),
            our_mac: Some(Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55])),
            host_loopback: PerFamily::new(Some(a("192.0.2.1")), Some(a("fe80::1"))),
            dhcp: Some(Assigned {
                addr: Some(a("192.0.2.7")),
                prefix: 24,
                router: Some(a("192.0.2.1")),
                our_link_local: None,
            }),
            ipv6: Some(Assigned {
                addr: None,
                prefix: 64,
                router: Some(a("fe80::1")),
                our_link_local: Some(a("fe80::2")),
            }),
            ndp: true,
            dhcpv6: true,
            dns: PerFamily::new(vec![a("192.0.2.53"), a("192.0.2.54")], vec![a("2001:db8::53")]),
            search: vec!["example.org".into()],
            inbound: Some(rules(Spec::parse(Proto::Tcp, "127.0.0.1/8080:80,81-85:91-95"))),
            outbound: Some(rules(Spec::parse_outbound(Proto::Udp, "53"))),
        };
        let expected = "\
UNIX domain socket bound at /tmp/vm.socket
Template interface: eth0 (IPv4), eth1 (IPv6)
Outbound interface: eth1 (IPv6)
Outbound IPv4 address: 192.0.2.8
Namespace interface: eth0
MAC:
    host: 9a:55:9a:55:9a:55
    NAT to host 127.0.0.1: 192.0.2.1
DHCP:
    assign: 192.0.2.7
    mask: 255.255.255.0
    router: 192.0.2.1
DNS:
    192.0.2.53
    192.0.2.54
DNS search list:
    example.org
    NAT to host ::1: fe80::1
NDP/DHCPv6:
    assign: ::
    router: fe80::1
    our link-local: fe80::2
DNS:
    2001:db8::53
DNS search list:
    example.org
Inbound forwarding rules (HOST):
    TCP [127.0.0.1]:8080  =>  80
    TCP [127.0.0.1]:81-85  =>  91-95
Outbound forwarding rules (SPLICE):
    UDP [*]%lo:53  =>  53

You can now start qemu (7.2 or later):
    kvm ... -device virtio-net-pci,netdev=s -netdev stream,id=s,server=off,addr.type=unix,addr.path=/tmp/vm.socket";
        assert_eq!(summary.lines().join("\n"), expected);
    }

    #[test]
    fn parts_that_are_off_are_left_out() {
        assert!(Summary::default().lines().is_empty());
        let none = Summary { inbound: Some(Vec::new()), outbound: Some(Vec::new()), ..Summary::default() };
        assert_eq!(none.lines(), ["Inbound forwarding rules (HOST):", "Outbound forwarding rules (SPLICE):"]);
        let only = |ndp, dhcpv6| {
            Summary { ipv6: Some(Assigned::default()), ndp, dhcpv6, ..Summary::default() }.lines().first().cloned()
        };
        assert_eq!(only(true, false).as_deref(), Some("NDP:"));
        assert_eq!(only(false, true).as_deref(), Some("DHCPv6:"));
        assert_eq!(only(false, false), None);
    }

    #[test]
    fn masks() {
        for (prefix, text) in [(0, "0.0.0.0"), (1, "128.0.0.0"), (24, "255.255.255.0"), (32, "255.255.255.255")] {
            assert_eq!(mask(prefix).to_string(), text);
        }
    }
}
