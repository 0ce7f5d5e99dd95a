//! The argument lists of programs that start passt. Each is compared with the whole expected configuration.

use super::*;
use crate::base::Mac;

fn machine(path: &str) -> Mode {
    Mode::Machine { plug: Plug::Socket(Some(path.into())), one_off: false }
}

fn default() -> Config {
    let c = passt("");
    assert_eq!(c.mode, Mode::Machine { plug: Plug::Socket(None), one_off: false });
    c
}

#[test]
fn a_machine_is_told_everything_and_gets_no_ports() {
    let c = default();
    assert_eq!(c.personality, Personality::Passt);
    assert!(c.dhcp && c.dhcpv6 && c.ndp && c.ra && c.dhcp_dns && c.dhcp_search);
    assert!(!c.splice && !c.config_net && !c.foreground);
    assert_eq!([&c.tcp_ports, &c.udp_ports, &c.tcp_ns, &c.udp_ns], [&Ports::None; 4]);
    assert_eq!((c.mtu, c.unsupported()), (65520, None));
    // The same by its own name, but for what must be there.
    let control = Control::Default;
    assert_eq!(
        spelt("vm"),
        Config { personality: Personality::Spelt, lacks: Lacks::default(), control, follow: true, ..c }
    );
}

#[test]
fn libvirt() {
    let got = passt(
        "--one-off --socket /run/libvirt/qemu/passt/1-vm-net0.socket --pid /run/libvirt/qemu/passt/1-vm-net0-passt.pid \
         --mtu 1500 --interface eth0 --log-file /tmp/passt.log --hostname vm --fqdn vm.example.org --address 192.0.2.7 \
         --netmask 24 --address 2001:db8::7 --tcp-ports 192.0.2.2%eth0/2222:22,~30-40,8000-8009 --udp-ports all,~5353",
    );
    let expected = Config {
        mode: Mode::Machine {
            plug: Plug::Socket(Some("/run/libvirt/qemu/passt/1-vm-net0.socket".into())),
            one_off: true,
        },
        pid_file: Some("/run/libvirt/qemu/passt/1-vm-net0-passt.pid".into()),
        mtu: 1500,
        interface: Some("eth0".into()),
        log_file: Some("/tmp/passt.log".into()),
        hostname: Some("vm".into()),
        fqdn: Some("vm.example.org".into()),
        addresses: PerFamily::new(assign("192.0.2.7", None), assign("2001:db8::7", None)),
        netmask: Some(24),
        tcp_ports: got.tcp_ports.clone(),
        udp_ports: got.udp_ports.clone(),
        ..default()
    };
    assert_eq!(got, expected);
    assert_eq!(rules(&got.tcp_ports), ["192.0.2.2%eth0/2222-2222:22-22", "192.0.2.2%eth0/8000-8009:8000-8009"]);
    assert_eq!(got.unsupported(), None);
}

#[test]
fn qemu() {
    let got = passt(
        "--quiet --mtu 9000 --address 192.0.2.7 --netmask 255.255.255.0 --mac-addr 9a:55:9a:55:9a:56 --gateway 192.0.2.1 \
         --interface eth0 --outbound 192.0.2.2 --outbound-if4 eth0 --outbound-if6 eth0 --dns 192.0.2.53 --fqdn a.b \
         --no-dhcp-dns --no-dhcp-search --map-host-loopback none --map-guest-addr 192.0.2.9 --dns-forward 192.0.2.54 \
         --dns-host 127.0.0.53 --no-tcp --no-udp --no-icmp --no-dhcp --no-ndp --no-dhcpv6 --no-ra --freebind --ipv4-only \
         --pid /tmp/x.pid --fd 3",
    );
    let expected = Config {
        mode: Mode::Machine { plug: Plug::Descriptor(3), one_off: true },
        verbosity: Verbosity::Quiet,
        mtu: 9000,
        addresses: PerFamily::new(assign("192.0.2.7", None), None),
        netmask: Some(24),
        our_mac: Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x56]),
        gateway: PerFamily::new(Some(a("192.0.2.1")), None),
        interface: Some("eth0".into()),
        outbound_addr: PerFamily::new(Some(a("192.0.2.2")), None),
        outbound_if: PerFamily::new(Some("eth0".into()), Some("eth0".into())),
        dns: Dns::Servers(vec![a("192.0.2.53")]),
        fqdn: Some("a.b".into()),
        dhcp_dns: false,
        dhcp_search: false,
        map_host_loopback: PerFamily::new(Map::Off, Map::Off),
        map_guest_addr: PerFamily::new(Some(a("192.0.2.9")), None),
        dns_forward: PerFamily::new(Some(a("192.0.2.54")), None),
        dns_host: PerFamily::new(Some(a("127.0.0.53")), None),
        tcp: false,
        udp: false,
        icmp: false,
        dhcp: false,
        ndp: false,
        dhcpv6: false,
        ra: false,
        freebind: true,
        v6: false,
        pid_file: Some("/tmp/x.pid".into()),
        ..default()
    };
    assert_eq!(got, expected);
    // Its lists come as one value each.
    let args = ["--search", "a.example b.example", "--tcp-ports", "22,80:8080", "--fd", "3"];
    let got = config(parse("passt", &args).unwrap());
    assert_eq!(got.search, Search::Domains(vec!["a.example".into(), "b.example".into()]));
    assert_eq!(rules(&got.tcp_ports), ["22-22:22-22", "80-80:8080-8080"]);
}

#[test]
fn libguestfs() {
    let got = passt(
        "--one-off --socket /tmp/l/passt.sock --pid /tmp/l/passt1.pid --address 169.254.2.15 --netmask 16 --mac-addr \
         9a:56:9a:56:9a:56 --gateway 169.254.2.2",
    );
    let expected = Config {
        mode: Mode::Machine { plug: Plug::Socket(Some("/tmp/l/passt.sock".into())), one_off: true },
        pid_file: Some("/tmp/l/passt1.pid".into()),
        addresses: PerFamily::new(assign("169.254.2.15", None), None),
        netmask: Some(16),
        our_mac: Mac([0x9a, 0x56, 0x9a, 0x56, 0x9a, 0x56]),
        gateway: PerFamily::new(Some(a("169.254.2.2")), None),
        ..default()
    };
    assert_eq!(got, expected);
    assert!(matches!(parse("passt", &["--help"]), Ok(Command::Print { stdout: true, status: 0, .. })));
}

#[test]
fn muvm_and_crun() {
    let got = passt("-q -f --fd 5 -t 3334:3334");
    assert!(got.foreground && got.verbosity == Verbosity::Quiet);
    assert_eq!(got.mode, Mode::Machine { plug: Plug::Descriptor(5), one_off: true });
    let got = passt("-t all -u all --no-dhcp-dns --no-map-gw --fd 7");
    assert_eq!(got.map_host_loopback, PerFamily::new(Map::Off, Map::Off));
    assert!(!got.dhcp_dns && !got.tcp_ports.is_exact());
}

/// KubeVirt gives no ports where it means all of them, and leaves out those of a sidecar.
#[test]
fn kubevirt() {
    let got = passt("--one-off --socket /s --pid /p -t all,~15000,~15001,~15004 -u all");
    let all = rules(&got.tcp_ports);
    assert!(all.iter().any(|r| r.contains("-14999:")) && all.iter().any(|r| r.starts_with("15002-15003:")), "{all:?}");
}

#[test]
fn options_may_stand_anywhere_and_nothing_else() {
    assert_eq!(passt("-s /a -1 -s /b").mode, Mode::Machine { plug: Plug::Socket(Some("/b".into())), one_off: true });
    assert_eq!(passt("--socket-path=/a").mode, machine("/a"));
    assert_eq!(passt("-s /a --").mode, machine("/a"));
    assert_eq!(passt("-q1fs /a").mode, Mode::Machine { plug: Plug::Socket(Some("/a".into())), one_off: true });
    for line in ["eth0", "-q eth0 -f", "-- eth0", "1234"] {
        assert!(refused("passt", line).starts_with("Unexpected argument '"), "{line}");
    }
}

#[test]
fn refusals() {
    let long = "/".repeat(108);
    for (line, message) in [
        ("--fd 2", "Invalid descriptor '2' for option '--fd': give the number of an open descriptor, 3 or more"),
        ("-F x", "Invalid descriptor 'x' for option '-F': give the number of an open descriptor, 3 or more"),
        ("-s /a --fd 3", "Options '--socket /a' and '--fd 3' contradict each other: leave one of them out"),
        ("--socket=", "Invalid socket path '' for option '--socket': give the path of a file"),
        (
            "-t auto",
            "Invalid port specification 'auto' for option '-t': 'auto' is for namespaces: which ports a virtual machine \
             listens on cannot be seen",
        ),
        ("--stats 1", "Option '--stats' prints to the terminal: it needs '--foreground' as well"),
    ] {
        assert_eq!(refused("passt", line), message, "{line}");
    }
    let message = refused("passt", &format!("-s {long}"));
    assert!(message.ends_with("it has 108 bytes, and the kernel takes 107: give a shorter path"), "{message}");
    assert!(refused("/x/passt", "--bogus").starts_with("/x/passt: unrecognized option '--bogus'\nUsage: passt"));
    assert!(refused("spelt", "vm --fd 1").starts_with("error: Invalid descriptor '1' for option '--fd'"));
}

#[test]
fn d17_capabilities_go_to_standard_output() {
    for line in ["--print-capabilities", "--vhost-user --print-capabilities", "-s /a --print-capabilities --bogus"] {
        let printed = parse("passt", &words(line)).unwrap();
        let expected = "{\n  \"type\": \"net\"\n}\n".to_string();
        assert_eq!(printed, Command::Print { text: expected, stdout: true, status: 0 }, "{line}");
    }
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    for (line, option) in [
        ("--repair-path /r", "--repair-path"),
        ("--migrate-exit", "--migrate-exit"),
        ("--migrate-no-linger", "--migrate-no-linger"),
    ] {
        let text = passt(line).unsupported().unwrap();
        assert!(text.starts_with(&format!("Option '{option}' is not implemented yet")), "{text}");
    }
    assert_eq!(passt("--repair-path none").unsupported(), None);
}

#[test]
fn the_version_begins_with_the_name() {
    let Ok(Command::Print { text, stdout: true, status: 0 }) = parse("/x/passt", &["--version"]) else { panic!() };
    assert!(text.starts_with(concat!("passt ", env!("CARGO_PKG_VERSION"), "\n")), "{text}");
}
