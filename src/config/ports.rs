//! `-t`, `-u`, `-T` and `-U` against the rest of the configuration.

use super::table::Opt;
use super::types::{Config, Mode};
use crate::base::Family;
use crate::fwd::Proto;
use crate::fwd::ports::{Ports, Spec};

/// `None` for `none`.
pub(super) fn parse(opt: Opt, text: &str, outbound: bool) -> Result<Option<Spec>, String> {
    match (text, outbound) {
        ("none", _) => Ok(None),
        (_, true) => Spec::parse_outbound(proto(opt), text).map(Some),
        (_, false) => Spec::parse(proto(opt), text).map(Some),
    }
}

/// Reads all specifications into `c`, each with its option and the name it was given by.
pub(super) fn read(c: &mut Config, given: &[(Opt, String, String)]) -> Result<(), String> {
    for opt in [Opt::TcpPorts, Opt::UdpPorts, Opt::TcpNs, Opt::UdpNs] {
        let of_kind: Vec<_> = given.iter().filter(|(o, _, _)| *o == opt).collect();
        let Some((_, name, _)) = of_kind.last() else { continue };
        let mut specs = Vec::new();
        for (_, name, text) in &of_kind {
            if let Some(spec) = read_one(c, opt, name, text, specs.is_empty())? {
                specs.push(spec);
            }
        }
        let ports = if specs.is_empty() { Ports::None } else { Ports::Specs(specs) };
        // Whether the others conflict depends on the ephemeral range of the kernel.
        if ports.is_exact() {
            ports
                .rules(&Ports::EPHEMERAL_DEFAULT)
                .map_err(|advice| format!("Overlapping port specifications for option '{name}': {advice}"))?;
        }
        *slot(c, opt) = ports;
    }
    Ok(())
}

fn read_one(c: &Config, opt: Opt, name: &str, text: &str, first: bool) -> Result<Option<Spec>, String> {
    let invalid = |advice: &str| format!("Invalid port specification '{text}' for option '{name}': {advice}");
    let outbound = matches!(opt, Opt::TcpNs | Opt::UdpNs);
    let Some(mut spec) = parse(opt, text, outbound).map_err(|advice| invalid(&advice))? else {
        return if first {
            Ok(None)
        } else {
            Err(invalid("'none' stands alone, as the first specification of its kind"))
        };
    };
    match proto(opt) {
        Proto::Tcp if !c.tcp => return Err(invalid("TCP is switched off by '--no-tcp'")),
        Proto::Udp if !c.udp => return Err(invalid("UDP is switched off by '--no-udp'")),
        _ => {}
    }
    if spec.is_auto() && matches!(c.mode, Mode::Machine { .. }) {
        return Err(invalid("'auto' is for namespaces: which ports a virtual machine listens on cannot be seen"));
    }
    let only = match (c.v4, c.v6) {
        (true, false) => Some((Family::V4, "IPv6 is switched off by '--ipv4-only'")),
        (false, true) => Some((Family::V6, "IPv4 is switched off by '--ipv6-only'")),
        _ => None,
    };
    if let Some((family, why)) = only
        && !spec.limit(family)
    {
        return Err(invalid(why));
    }
    Ok(Some(spec))
}

fn proto(opt: Opt) -> Proto {
    match opt {
        Opt::UdpPorts | Opt::UdpNs => Proto::Udp,
        _ => Proto::Tcp,
    }
}

fn slot(c: &mut Config, opt: Opt) -> &mut Ports {
    match opt {
        Opt::UdpPorts => &mut c.udp_ports,
        Opt::TcpNs => &mut c.tcp_ns,
        Opt::UdpNs => &mut c.udp_ns,
        _ => &mut c.tcp_ports,
    }
}
