//! Options that are read and checked but not implemented yet: the one list of them.

use super::table::Opt;
use super::types::Config;
use crate::fwd::ports::Ports;

impl Config {
    /// One sentence about the first option given that is not implemented yet.
    pub fn unsupported(&self) -> Option<String> {
        let option = PLANNED.iter().find(|p| (p.used)(self));
        option.map(|p| format!("Option '{}' is not implemented yet in {}: leave it out", p.name, super::version()))
    }
}

/// True if help should not offer it.
pub(super) fn is_planned(opt: Opt) -> bool {
    PLANNED.iter().any(|p| p.opt == opt)
}

struct Planned {
    opt: Opt,
    name: &'static str,
    used: fn(&Config) -> bool,
}

static PLANNED: &[Planned] = &[
    Planned { opt: Opt::Stats, name: "--stats", used: |c| c.stats_secs.is_some() },
    Planned { opt: Opt::ConfPath, name: "--conf-path", used: |c| c.conf_path.is_some() },
    Planned { opt: Opt::TcpNs, name: "--tcp-ns", used: |c| matches!(c.tcp_ns, Ports::Specs(_)) },
    Planned { opt: Opt::UdpNs, name: "--udp-ns", used: |c| matches!(c.udp_ns, Ports::Specs(_)) },
    Planned { opt: Opt::HostLoToNsLo, name: "--host-lo-to-ns-lo", used: |c| c.host_lo_to_ns_lo },
    Planned { opt: Opt::SpliceOnly, name: "--splice-only", used: |c| c.splice_only },
    // Without the shortcut it switches off, it asks for what is done anyway.
    Planned { opt: Opt::NoSplice, name: "--no-splice", used: |_| false },
];
