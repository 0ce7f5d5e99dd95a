//! The start-up summary for programs: one JSON object (RFC 8259) on one line.

use serde::Serialize;

use super::{Assigned, Summary};
use crate::base::PerFamily;
use crate::fwd::{Proto, Rule};

impl Summary {
    /// Addresses are texts, absent parts `null`, ports inclusive ranges. `pid`: the process that serves the guest, where
    /// there is one already.
    pub fn json(&self, version: &str, pid: Option<u32>) -> String {
        let object = Object {
            version,
            pid,
            socket: self.socket.as_ref().map(|p| p.display().to_string()),
            template_interface: texts(&self.template),
            outbound_interface: texts(&self.outbound_if),
            outbound_address: texts(&self.outbound_addr),
            namespace_interface: self.ns_ifname.as_deref(),
            our_mac: self.our_mac.map(|m| m.to_string()),
            host_loopback: texts(&self.host_loopback),
            dhcp: self.dhcp.as_ref().map(|a| Dhcp {
                assign: a.addr.map(|a| a.to_string()),
                prefix: a.prefix,
                router: a.router.map(|a| a.to_string()),
            }),
            ipv6: self.ipv6.as_ref().map(|a| self.ipv6_object(a)),
            dns: self.dns.v4.iter().chain(&self.dns.v6).map(ToString::to_string).collect(),
            dns_search: &self.search,
            inbound: self.inbound.iter().flatten().map(Forward::from).collect(),
            outbound: self.outbound.iter().flatten().map(Forward::from).collect(),
        };
        // Fails only for maps with keys that are no text.
        serde_json::to_string(&object).unwrap_or_default()
    }

    fn ipv6_object(&self, assigned: &Assigned) -> Ipv6 {
        Ipv6 {
            ndp: self.ndp,
            dhcpv6: self.dhcpv6,
            assign: assigned.addr.map(|a| a.to_string()),
            router: assigned.router.map(|a| a.to_string()),
            our_link_local: assigned.our_link_local.map(|a| a.to_string()),
        }
    }
}

#[derive(Serialize)]
struct Object<'a> {
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<String>,
    template_interface: Both,
    outbound_interface: Both,
    outbound_address: Both,
    namespace_interface: Option<&'a str>,
    our_mac: Option<String>,
    host_loopback: Both,
    dhcp: Option<Dhcp>,
    ipv6: Option<Ipv6>,
    dns: Vec<String>,
    dns_search: &'a [String],
    inbound: Vec<Forward<'a>>,
    outbound: Vec<Forward<'a>>,
}

#[derive(Serialize)]
struct Both {
    ipv4: Option<String>,
    ipv6: Option<String>,
}

fn texts<T: ToString>(both: &PerFamily<Option<T>>) -> Both {
    Both { ipv4: both.v4.as_ref().map(T::to_string), ipv6: both.v6.as_ref().map(T::to_string) }
}

#[derive(Serialize)]
struct Dhcp {
    assign: Option<String>,
    prefix: u8,
    router: Option<String>,
}

#[derive(Serialize)]
struct Ipv6 {
    ndp: bool,
    dhcpv6: bool,
    assign: Option<String>,
    router: Option<String>,
    our_link_local: Option<String>,
}

/// A forwarding rule. No address: every address of both families.
#[derive(Serialize)]
struct Forward<'a> {
    protocol: &'static str,
    address: Option<String>,
    interface: Option<&'a str>,
    first: u16,
    last: u16,
    target_address: Option<String>,
    target_first: u16,
    target_last: u16,
    best_effort: bool,
    auto: bool,
}

impl<'a> From<&'a Rule> for Forward<'a> {
    fn from(rule: &'a Rule) -> Self {
        Forward {
            protocol: match rule.proto {
                Proto::Tcp => "tcp",
                Proto::Udp => "udp",
            },
            address: rule.listen.map(|a| a.to_string()),
            interface: rule.device.as_deref(),
            first: rule.first,
            last: rule.last,
            target_address: rule.target.map(|a| a.to_string()),
            target_first: rule.target_first,
            target_last: rule.target_last(),
            best_effort: rule.best_effort,
            auto: rule.auto,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Addr, Mac};
    use crate::fwd::ports::{Ports, Spec};

    fn a(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    #[test]
    fn the_object_has_all_of_the_summary() {
        let spec = Spec::parse(Proto::Tcp, "[::]%eth0/8080-8081:[fd00::2]/80-81,auto").unwrap();
        let summary = Summary {
            template: PerFamily::new(Some("eth0".into()), None),
            ns_ifname: Some("odd\"name".into()),
            our_mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            host_loopback: PerFamily::new(Some(a("192.0.2.1")), None),
            dhcp: Some(Assigned { addr: Some(a("192.0.2.7")), prefix: 24, ..Assigned::default() }),
            ipv6: Some(Assigned { our_link_local: Some(a("fe80::1")), ..Assigned::default() }),
            ndp: true,
            dns: PerFamily::new(vec![a("192.0.2.53")], vec![a("fd00::53")]),
            search: vec!["lab.test".into()],
            inbound: Some(Ports::Specs(vec![spec]).rules(&Ports::EPHEMERAL_DEFAULT).unwrap()),
            ..Summary::default()
        };
        let got: serde_json::Value = serde_json::from_str(&summary.json("1.2.3", Some(77))).unwrap();
        let expected = serde_json::json!({
            "version": "1.2.3", "pid": 77,
            "template_interface": {"ipv4": "eth0", "ipv6": null},
            "outbound_interface": {"ipv4": null, "ipv6": null},
            "outbound_address": {"ipv4": null, "ipv6": null},
            "namespace_interface": "odd\"name", "our_mac": "02:00:00:00:00:01",
            "host_loopback": {"ipv4": "192.0.2.1", "ipv6": null},
            "dhcp": {"assign": "192.0.2.7", "prefix": 24, "router": null},
            "ipv6": {"ndp": true, "dhcpv6": false, "assign": null, "router": null, "our_link_local": "fe80::1"},
            "dns": ["192.0.2.53", "fd00::53"], "dns_search": ["lab.test"],
            "inbound": [{"protocol": "tcp", "address": "::", "interface": "eth0", "first": 8080, "last": 8081,
                "target_address": "fd00::2", "target_first": 80, "target_last": 81, "best_effort": false, "auto": true}],
            "outbound": [],
        });
        assert_eq!(got, expected);
    }

    #[test]
    fn it_is_one_line_and_needs_no_process() {
        let text = Summary::default().json("1", None);
        assert!(text.starts_with("{\"version\":\"1\",\"template_interface\":") && !text.contains('\n'), "{text}");
    }
}
