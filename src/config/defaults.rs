//! What holds where no option says otherwise.

use std::time::Duration;

use super::types::{Config, Control, Dns, Lack, Lacks, LogFormat, Mode, Personality, Search, Verbosity};
use crate::base::PerFamily;
use crate::fwd::ports::Ports;

/// A virtual machine configures itself, from all that it is told; nothing of ours is in it.
pub(super) fn machine_defaults(personality: Personality) -> Config {
    Config { dhcp_dns: true, dhcp_search: true, config_net: false, splice: false, ..defaults(personality) }
}

pub(super) fn defaults(personality: Personality) -> Config {
    // A namespace of pasta shares ports with the host; `spelt` opens only what it was told to.
    let ports = match personality {
        Personality::Spelt | Personality::Passt | Personality::Slirp4netns => Ports::None,
        Personality::Pasta => Ports::Auto,
    };
    Config {
        personality,
        mode: Mode::Spawn { command: Vec::new(), userns: None, netns_only: false },
        warnings: Vec::new(),
        check: false,
        json: false,
        foreground: false,
        verbosity: Verbosity::Normal,
        log_file: None,
        log_fd: None,
        log_format: LogFormat::Text,
        log_size_bytes: Config::LOG_SIZE_DEFAULT,
        pid_file: None,
        pcap: None,
        stats_secs: None,
        runas: None,
        conf_path: None,
        control: if personality == Personality::Spelt { Control::Default } else { Control::Off },
        chroot_fallback: false,
        lacks: lacks(personality),
        vhost_user: false,
        queues: None,
        threads: None,
        migration: None,
        userns_fd: None,
        ready_fd: None,
        exit_fd: None,
        api_socket: None,
        mtu: Config::DEFAULT_MTU,
        addresses: PerFamily::default(),
        netmask: None,
        our_mac: Config::DEFAULT_MAC,
        ns_mac: None,
        gateway: PerFamily::default(),
        interface: None,
        follow: personality == Personality::Spelt,
        outbound_addr: PerFamily::default(),
        outbound_if: PerFamily::default(),
        dns: Dns::FromHost,
        search: Search::FromHost,
        dns_forward: PerFamily::default(),
        dns_host: PerFamily::default(),
        map_host_loopback: PerFamily::default(),
        map_guest_addr: PerFamily::default(),
        loopback_clients: false,
        hostname: None,
        fqdn: None,
        v4: true,
        v6: true,
        tcp: true,
        udp: true,
        icmp: true,
        dhcp: true,
        dhcpv6: true,
        ndp: true,
        ra: true,
        dhcp_dns: false,
        dhcp_search: false,
        freebind: false,
        config_net: personality == Personality::Spelt,
        ns_ifname: None,
        no_copy_routes: false,
        no_copy_addrs: false,
        netns_quit: true,
        linger: Duration::ZERO,
        pidns: true,
        tcp_ports: ports.clone(),
        udp_ports: ports.clone(),
        tcp_ns: ports.clone(),
        udp_ns: ports,
        splice: true,
        splice_only: false,
        host_lo_to_ns_lo: false,
    }
}

/// The others run where there is no Landlock, of which they know nothing, and slirp4netns is not isolated unless told; callers
/// take what they find on standard error for trouble. What pasta and passt insist on, we do.
fn lacks(personality: Personality) -> Lacks {
    match personality {
        Personality::Spelt => Lacks::default(),
        Personality::Pasta | Personality::Passt => Lacks { files: Lack::Remark, ..Lacks::default() },
        Personality::Slirp4netns => Lacks { files: Lack::Remark, ..Lacks::DEGRADED },
    }
}
