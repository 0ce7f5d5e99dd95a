//! The argument lists of programs that start pasta. Each is compared with the whole expected configuration.

use super::*;
use crate::base::Mac;

fn default() -> Config {
    let mut c = pasta("1");
    c.mode = spawn(&[]);
    c
}

#[test]
fn podman_without_ports() {
    let got = pasta(
        "--config-net --dns-forward 169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet --netns \
         /run/user/1000/netns/netns-8 --map-guest-addr 169.254.1.2",
    );
    let expected = Config {
        mode: by_path("/run/user/1000/netns/netns-8"),
        verbosity: Verbosity::Quiet,
        config_net: true,
        ra: false,
        dns_forward: PerFamily::new(Some(a("169.254.1.1")), None),
        map_host_loopback: PerFamily::new(Map::Off, Map::Off),
        map_guest_addr: PerFamily::new(Some(a("169.254.1.2")), None),
        tcp_ports: Ports::None,
        udp_ports: Ports::None,
        tcp_ns: Ports::None,
        udp_ns: Ports::None,
        ..default()
    };
    assert_eq!(got, expected);
    assert_eq!(got.unsupported(), None);
}

#[test]
fn podman_test_suite_options() {
    let got = pasta(
        "--config-net -m 1280 -a 192.0.2.5 -a 2001:db8::5 -g 192.0.2.1 -g fe80::1 -n 255.255.255.0 -I foobar0 \
         --ns-mac-addr 9a:dd:31:ea:92:98 --pid /tmp/x.pid -T none --tcp-ports 192.0.2.7%eth0/5201-5201:5201-5201 \
         -u none -U none --dns-forward 198.51.100.1 --quiet --netns /proc/77/ns/net",
    );
    let expected = Config {
        mode: by_path("/proc/77/ns/net"),
        verbosity: Verbosity::Quiet,
        config_net: true,
        ra: false,
        mtu: 1280,
        addresses: PerFamily::new(assign("192.0.2.5", None), assign("2001:db8::5", None)),
        gateway: PerFamily::new(Some(a("192.0.2.1")), Some(a("fe80::1"))),
        netmask: Some(24),
        ns_ifname: Some("foobar0".into()),
        ns_mac: Some(Mac([0x9a, 0xdd, 0x31, 0xea, 0x92, 0x98])),
        pid_file: Some("/tmp/x.pid".into()),
        dns_forward: PerFamily::new(Some(a("198.51.100.1")), None),
        tcp_ports: got.tcp_ports.clone(),
        udp_ports: Ports::None,
        tcp_ns: Ports::None,
        udp_ns: Ports::None,
        ..default()
    };
    assert_eq!(got, expected);
    assert_eq!(rules(&got.tcp_ports), ["192.0.2.7%eth0/5201-5201:5201-5201"]);
    assert_eq!(got.unsupported(), None);
}

#[test]
fn podman_port_forms() {
    let got = pasta(
        "--config-net -t 127.0.0.1/8080-8080:80-80 -t ::1/80-80:80-80 -t [::1]/81 -t 8081-8089:9081-9089 \
         -u 5300-5300:53-53 --netns /n/s",
    );
    assert_eq!(
        rules(&got.tcp_ports),
        ["127.0.0.1/8080-8080:80-80", "[::1]/80-80:80-80", "[::1]/81-81:81-81", "8081-8089:9081-9089"]
    );
    assert_eq!(rules(&got.udp_ports), ["5300-5300:53-53"]);
    assert_eq!(got.tcp_ns, Ports::Auto);
    assert_eq!(got.unsupported(), None);
}

/// The options of containers.conf come first, those of the command line after them: the last one wins.
#[test]
fn podman_overridden_defaults() {
    let got = pasta(
        "--config-net -m 1500 -a 10.0.0.1 --dns-forward 10.0.0.53 -t none -m 9000 -a 10.9.9.9 --dns-forward \
         169.254.1.1 -t 80-80:8080-8080 --netns /n/s",
    );
    assert_eq!((got.mtu, got.addresses.v4), (9000, assign("10.9.9.9", None)));
    assert_eq!(got.dns_forward.v4, Some(a("169.254.1.1")));
    assert_eq!(rules(&got.tcp_ports), ["80-80:8080-8080"]);
}

/// This build knows the option, so that the second attempt without it never comes; the form is what is matched for.
#[test]
fn podman_probe_for_unknown_options() {
    let message = refused("pasta", "--config-net --map-guest-addr2 169.254.1.2");
    assert!(message.starts_with("pasta: unrecognized option '--map-guest-addr2'\nUsage: pasta"), "{message}");
}

/// Recorded from Podman 5.8: options keep the order of the mappings, IPv6 addresses come without brackets, and the
/// `none` of what the user has not given comes after the name server.
#[test]
fn podman_mappings_of_both_protocols() {
    let got = pasta(
        "--config-net -t 192.0.2.2/8082-8082:80-80 -u 192.0.2.2/8082-8082:80-80 -t 2001:db8:1::2/8082-8082:80-80 -u \
         2001:db8:1::2/8082-8082:80-80 -t 127.0.0.1/8081-8081:80-80 --dns-forward 169.254.1.1 -T none -U none \
         --no-map-gw --quiet --netns /run/user/1000/netns/netns-8 --map-guest-addr 169.254.1.2",
    );
    assert_eq!(
        rules(&got.tcp_ports),
        ["192.0.2.2/8082-8082:80-80", "[2001:db8:1::2]/8082-8082:80-80", "127.0.0.1/8081-8081:80-80"]
    );
    assert_eq!(rules(&got.udp_ports), ["192.0.2.2/8082-8082:80-80", "[2001:db8:1::2]/8082-8082:80-80"]);
    assert_eq!((got.tcp_ns, got.udp_ns), (Ports::None, Ports::None));
}

/// Recorded from Podman 5.8 without an opt-in to pasta's socket.
#[test]
fn podman_rootless_bridge() {
    let got = pasta(
        "--config-net --pid /run/user/1000/containers/networks/rootless-netns/rootless-netns-conn.pid --dns-forward \
         169.254.1.1 -t none -u none -T none -U none --no-map-gw --quiet --netns \
         /run/user/1000/containers/networks/rootless-netns/rootless-netns --map-guest-addr 169.254.1.2",
    );
    let directory = "/run/user/1000/containers/networks/rootless-netns";
    assert_eq!(got.pid_file, Some(format!("{directory}/rootless-netns-conn.pid").into()));
    assert_eq!(got.mode, by_path(&format!("{directory}/rootless-netns")));
    assert_eq!(got.unsupported(), None);
}

#[test]
fn podman_rootless_bridge_with_pid_and_socket() {
    let got = pasta(
        "--config-net --pid /run/user/1000/netns/rootless-netns-conn.pid --dns-forward 169.254.1.1 -t none -u none -T \
         none -U none --no-map-gw --quiet --netns /run/user/1000/netns/rootless-netns --map-guest-addr 169.254.1.2 -c \
         /run/user/1000/netns/pasta.sock",
    );
    assert_eq!(got.pid_file, Some("/run/user/1000/netns/rootless-netns-conn.pid".into()));
    assert_eq!(got.conf_path, Some("/run/user/1000/netns/pasta.sock".into()));
    assert_eq!(got.unsupported(), None);
}

fn rootlesskit(rest: &str) -> Config {
    pasta(&format!(
        "--stderr --ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 \
         --dns-forward=10.0.2.3 --no-map-gw --ipv4-only {rest}"
    ))
}

fn rootlesskit_expected() -> Config {
    Config {
        ns_ifname: Some("tap0".into()),
        config_net: true,
        ra: false,
        addresses: PerFamily::new(assign("10.0.2.100", None), None),
        netmask: Some(24),
        gateway: PerFamily::new(Some(a("10.0.2.2")), None),
        dns_forward: PerFamily::new(Some(a("10.0.2.3")), None),
        map_host_loopback: PerFamily::new(Map::Off, Map::Off),
        v6: false,
        tcp_ports: Ports::None,
        udp_ports: Ports::None,
        ..default()
    }
}

#[test]
fn rootlesskit_by_pid() {
    let got = rootlesskit("--tcp-ports=none --udp-ports=none 4321");
    assert_eq!(got, Config { mode: by_pid(4321), ..rootlesskit_expected() });
    assert_eq!(got.unsupported(), None);
}

#[test]
fn rootlesskit_by_path() {
    let got = rootlesskit("--tcp-ports=none --udp-ports=none --userns=/proc/4321/ns/user --netns=/proc/4321/ns/net");
    let mode = Mode::Attach {
        target: Target::Path("/proc/4321/ns/net".into()),
        userns: Some("/proc/4321/ns/user".into()),
        netns_only: false,
    };
    assert_eq!(got, Config { mode, ..rootlesskit_expected() });
}

#[test]
fn rootlesskit_with_automatic_ports() {
    let got = rootlesskit("--tcp-ports=auto --udp-ports=auto --host-lo-to-ns-lo 4321");
    assert!(got.host_lo_to_ns_lo);
    assert_eq!(got.tcp_ports.rules(&(32768..=60999)).unwrap().len(), 2);
    assert!(got.tcp_ports.rules(&(32768..=60999)).unwrap().iter().all(|r| r.auto));
    assert_eq!(got.unsupported(), None);
}

#[test]
fn rootlesskit_2_0() {
    let got = pasta(
        "--foreground --stderr --no-dhcp --no-ra --ns-ifname=tap0 --mtu=65520 --address=10.0.2.100 --netmask=24 \
         --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=none --udp-ports=none 4321",
    );
    let expected = Config {
        mode: by_pid(4321),
        foreground: true,
        dhcp: false,
        ra: false,
        config_net: false,
        ..rootlesskit_expected()
    };
    assert_eq!(got, expected);
}

/// `--port-driver=implicit`, recorded from release 2.0: what the user sets free is found by itself.
#[test]
fn rootlesskit_2_0_with_automatic_ports() {
    let got = pasta(
        "--foreground --stderr --ns-ifname=tap0 --mtu=65520 --no-dhcp --no-ra --address=10.0.2.100 --netmask=24 \
         --gateway=10.0.2.2 --dns-forward=10.0.2.3 --no-map-gw --ipv4-only --tcp-ports=auto --udp-ports=auto 4321",
    );
    assert!(got.foreground && !got.config_net);
    for ports in [&got.tcp_ports, &got.udp_ports] {
        let rules = ports.rules(&(32768..=60999)).unwrap();
        assert!(!rules.is_empty() && rules.iter().all(|r| r.auto), "{rules:?}");
    }
}

#[test]
fn rootlesskit_probes() {
    for line in ["--version", "--host-lo-to-ns-lo --version", "--version --no-such-option"] {
        let Ok(Command::Print { text, stdout: true, status: 0 }) = parse("pasta", &words(line)) else {
            panic!("{line}")
        };
        assert!(text.starts_with("pasta "), "{text}");
    }
    assert!(refused("pasta", "--no-such-option --version").contains("unrecognized option '--no-such-option'"));
}

#[test]
fn nsjail_minimal() {
    let got = pasta("-f -q --no-dhcp --no-dhcpv6 --no-ra --config-net -t none -u none -T none -U none 99");
    let expected = Config {
        mode: by_pid(99),
        foreground: true,
        verbosity: Verbosity::Quiet,
        dhcp: false,
        dhcpv6: false,
        ra: false,
        config_net: true,
        tcp_ports: Ports::None,
        udp_ports: Ports::None,
        tcp_ns: Ports::None,
        udp_ns: Ports::None,
        ..default()
    };
    assert_eq!(got, expected);
    assert_eq!(got.unsupported(), None);
}

#[test]
fn nsjail_full() {
    let got = pasta(
        "-f -q --no-dhcp --no-dhcpv6 --no-ra --config-net --dhcp-dns --dns-forward 192.0.2.53 --no-tcp --no-udp \
         --no-icmp --no-map-gw -a 192.0.2.2 -n 255.255.255.0 -g 192.0.2.1 -a fd00::2 -g fd00::1 -6 -4 -I eth0 -t none \
         -u none -T none -U none --splice-only 99",
    );
    let expected = Config {
        mode: by_pid(99),
        foreground: true,
        verbosity: Verbosity::Quiet,
        dhcp: false,
        dhcpv6: false,
        ra: false,
        tcp: false,
        udp: false,
        icmp: false,
        config_net: true,
        dhcp_dns: true,
        dns_forward: PerFamily::new(Some(a("192.0.2.53")), None),
        map_host_loopback: PerFamily::new(Map::Off, Map::Off),
        addresses: PerFamily::new(assign("192.0.2.2", None), assign("fd00::2", None)),
        netmask: Some(24),
        gateway: PerFamily::new(Some(a("192.0.2.1")), Some(a("fd00::1"))),
        v4: true,
        v6: false,
        ns_ifname: Some("eth0".into()),
        tcp_ports: Ports::None,
        udp_ports: Ports::None,
        tcp_ns: Ports::None,
        udp_ns: Ports::None,
        splice_only: true,
        ..default()
    };
    assert_eq!(got, expected);
    assert_eq!(got.unsupported(), None);
}

#[test]
fn nix() {
    let got = pasta(
        "--quiet --config-net --gateway 169.254.1.1 --address 169.254.1.2 --netmask 16 --dns-forward 169.254.1.1 \
         --gateway 64:ff9b:1:4b8e:472e:a5c8:a9fe:0101 --address 64:ff9b:1:4b8e:472e:a5c8:a9fe:0102 --dns-forward \
         64:ff9b:1:4b8e:472e:a5c8:a9fe:0101 --ns-ifname eth0 --no-netns-quit --netns /proc/self/fd/0 --userns \
         /proc/self/fd/1",
    );
    let gateway = PerFamily::new(Some(a("169.254.1.1")), Some(a("64:ff9b:1:4b8e:472e:a5c8:a9fe:101")));
    let expected = Config {
        mode: Mode::Attach {
            target: Target::Path("/proc/self/fd/0".into()),
            userns: Some("/proc/self/fd/1".into()),
            netns_only: false,
        },
        verbosity: Verbosity::Quiet,
        config_net: true,
        ra: false,
        gateway,
        dns_forward: gateway,
        addresses: PerFamily::new(assign("169.254.1.2", None), assign("64:ff9b:1:4b8e:472e:a5c8:a9fe:102", None)),
        netmask: Some(16),
        ns_ifname: Some("eth0".into()),
        netns_quit: false,
        ..default()
    };
    assert_eq!(got, expected);
    assert_eq!(got.unsupported(), None);
}

#[test]
fn nix_in_the_foreground() {
    let got = pasta("--quiet --foreground --config-net --ns-ifname eth0 --netns /proc/self/fd/0");
    assert!(got.foreground && got.netns_quit);
    assert_eq!(got.mode, by_path("/proc/self/fd/0"));
}
