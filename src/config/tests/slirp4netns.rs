//! The argument lists of programs that start slirp4netns, and what it refuses.

use super::*;
use crate::base::Mac;

fn slirp(line: &str) -> Config {
    config(parse("/usr/bin/slirp4netns", &words(line)).unwrap_or_else(|e| panic!("{line}: {}", e.message)))
}

fn printed(line: &str) -> String {
    match parse("slirp4netns", &words(line)) {
        Ok(Command::Print { text, stdout: true, status: 0 }) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn no(line: &str) -> String {
    refused("slirp4netns", line)
}

#[test]
fn rootlesskit() {
    let got = slirp("--mtu 65520 -r 3 --disable-host-loopback --enable-sandbox --enable-seccomp 4711 tap0");
    assert_eq!(got.personality, Personality::Slirp4netns);
    assert_eq!(got.mode, by_pid(4711));
    assert_eq!((got.ready_fd, got.exit_fd), (Some(3), None));
    assert_eq!((got.mtu, got.config_net, got.ns_ifname.as_deref()), (65520, false, Some("tap0")));
    assert_eq!(got.addresses.v4, assign("10.0.2.100", Some(24)));
    assert_eq!(got.gateway.v4, Some(a("10.0.2.2")));
    assert_eq!(got.dns_forward, PerFamily::new(Some(a("10.0.2.3")), None));
    assert_eq!(got.dns, Dns::Servers(vec![a("10.0.2.3")]));
    assert_eq!(got.map_host_loopback, PerFamily::new(Map::Off, Map::Off));
    assert!(got.foreground && got.netns_quit && !got.v6 && got.v4);
    assert!(got.loopback_clients && !got.splice);
    assert_eq!((got.linger.as_secs(), pasta("1").linger.as_secs()), (5, 0));
    assert_eq!(
        (got.tcp_ports, got.udp_ports, got.tcp_ns, got.udp_ns),
        (Ports::None, Ports::None, Ports::None, Ports::None)
    );
    assert_eq!(got.warnings, Vec::<String>::new());
}

#[test]
fn isolation_must_be_there_if_asked_for() {
    let lacks = |line| {
        let Lacks { namespaces, files, filter } = slirp(line).lacks;
        (namespaces, files, filter)
    };
    assert_eq!(lacks("1"), (Lack::Warning, Lack::Remark, Lack::Warning));
    assert_eq!(lacks("--enable-sandbox 1"), (Lack::Fatal, Lack::Remark, Lack::Warning));
    assert_eq!(lacks("--enable-seccomp 1"), (Lack::Warning, Lack::Remark, Lack::Fatal));
}

#[test]
fn rootlesskit_with_detached_namespace() {
    let got = slirp(
        "--mtu 65520 -r 3 --cidr 10.0.9.0/24 --enable-ipv6 --api-socket /run/x/.s4nn.sock --userns-path=/proc/7/ns/user \
         --netns-type=path /run/x/netns tap0",
    );
    let userns = Some("/proc/7/ns/user".into());
    let target = Target::Path("/run/x/netns".into());
    assert_eq!(got.mode, Mode::Attach { target, userns, netns_only: false });
    assert_eq!(got.api_socket, Some("/run/x/.s4nn.sock".into()));
    assert_eq!(got.addresses, PerFamily::new(assign("10.0.9.100", Some(24)), assign("fd00::100", Some(64))));
    assert_eq!(got.gateway, PerFamily::new(Some(a("10.0.9.2")), Some(a("fd00::2"))));
    assert_eq!(got.dns, Dns::Servers(vec![a("10.0.9.3"), a("fd00::3")]));
    assert_eq!(got.dns_forward, PerFamily::new(Some(a("10.0.9.3")), Some(a("fd00::3"))));
    assert_eq!(got.map_host_loopback, PerFamily::new(Map::Gateway, Map::Gateway));
    assert!(got.ra && got.v6);
    assert_eq!(got.unsupported(), None);
}

#[test]
fn podman() {
    let got = slirp(
        "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -r 3 -e 4 \
         --netns-type=path /run/user/1000/netns/netns-8 tap0 --api-socket /run/user/1000/x.net",
    );
    assert_eq!(got.mode, by_path("/run/user/1000/netns/netns-8"));
    assert_eq!((got.ready_fd, got.exit_fd), (Some(3), Some(4)));
    assert!(got.config_net && !got.netns_quit && !got.ra);
    assert_eq!(got.ns_ifname.as_deref(), Some("tap0"));
    assert_eq!(got.api_socket, Some("/run/user/1000/x.net".into()));
}

#[test]
fn buildah() {
    let got = slirp("--mtu 65520 -r 3 -c 99 tap0");
    assert_eq!((got.mode, got.config_net, got.mtu), (by_pid(99), true, 65520));
}

#[test]
fn a_name_for_the_interface_need_not_be_given() {
    let got = slirp("12");
    assert_eq!((got.ns_ifname.as_deref(), got.mtu), (Some("tap0"), 1500));
    assert_eq!(slirp("12 eth9").ns_ifname.as_deref(), Some("eth9"));
    assert_eq!(slirp("12 tap0 more").warnings.len(), 1);
}

#[test]
fn the_rest_of_the_options() {
    let got =
        slirp("-c -6 --macaddress=02:00:00:00:00:07 --outbound-addr=eth7 --outbound-addr6=2001:db8::1 --disable-dns 1");
    assert_eq!(got.ns_mac, Some(Mac([2, 0, 0, 0, 0, 7])));
    assert_eq!(got.outbound_if, PerFamily::new(Some("eth7".into()), None));
    assert_eq!(got.outbound_addr, PerFamily::new(None, Some(a("2001:db8::1"))));
    assert_eq!((got.dns, got.dns_forward), (Dns::None, PerFamily::default()));
    assert_eq!(slirp("--outbound-addr=192.0.2.9 1").outbound_addr.v4, Some(a("192.0.2.9")));
    assert_eq!(slirp("--target-type=netns 1").mode, by_pid(1));
    let largest = slirp("-m 65521 1");
    assert_eq!((largest.mtu, largest.warnings.len()), (65521, 0));
    assert_eq!(slirp("--cidr=172.16.0.0/25 1").addresses.v4, assign("172.16.0.100", Some(25)));
    assert_eq!(slirp("--cidr=11.0.0.0/8 1").gateway.v4, Some(a("11.0.0.2")));
}

#[test]
fn refusals_say_what_to_do() {
    for (line, expected) in [
        ("", "slirp4netns: Give the process id of a network namespace, and"),
        ("--netns-type=path", "slirp4netns: Give the path of a network namespace, and"),
        ("abc", "slirp4netns: Invalid process id 'abc': give a number, or '--netns-type=path' as well"),
        ("0", "slirp4netns: Invalid process id '0': give the id"),
        ("1 lo", "slirp4netns: Invalid interface name 'lo': "),
        ("1 sixteen-bytes-16", "slirp4netns: Invalid interface name 'sixteen-bytes-16': "),
        ("-r x 1", "slirp4netns: Invalid ready-fd 'x' for option '-r': give the number"),
        ("--exit-fd=-1 1", "slirp4netns: Invalid exit-fd '-1' for option '--exit-fd': give the number"),
        ("-e 99999999999 1", "slirp4netns: Invalid exit-fd '99999999999' for option '-e': "),
        ("--mtu=0 1", "slirp4netns: Invalid MTU '0' for option '--mtu': give a number from 68 to 65521"),
        ("--mtu=65522 1", "slirp4netns: Invalid MTU '65522'"),
        ("--cidr=10.0.2.0 1", "slirp4netns: Invalid network '10.0.2.0' for option '--cidr': give a network and"),
        (
            "--cidr=10.0.2.1/24 1",
            "slirp4netns: Invalid network '10.0.2.1/24' for option '--cidr': that is an address in",
        ),
        (
            "--cidr=10.0.2.0/26 1",
            "slirp4netns: Invalid network '10.0.2.0/26' for option '--cidr': give a prefix length",
        ),
        ("--cidr=127.0.0.0/8 1", "slirp4netns: Invalid network '127.0.0.0/8' for option '--cidr': a loopback"),
        ("--cidr=224.0.0.0/8 1", "slirp4netns: Invalid network '224.0.0.0/8' for option '--cidr': give an address"),
        ("--cidr=fd00::/64 1", "slirp4netns: Invalid network 'fd00::/64' for option '--cidr': give an IPv4 network"),
        ("--api-socket= 1", "slirp4netns: Invalid socket path '' for option '--api-socket': give"),
        ("--netns-type=bess 1", "slirp4netns: Invalid type 'bess' for option '--netns-type': give 'path' or 'pid'"),
        (
            "--target-type=bess /x",
            "slirp4netns: Invalid type 'bess' for option '--target-type': User Mode Linux is not",
        ),
        ("--macaddress=02:00:00:00:00:07 1", "slirp4netns: Option '--macaddress' needs '--configure' as well"),
        ("-c --macaddress=9a:55:9a:55:9a:55 1", "slirp4netns: Option '--macaddress' names our own address"),
        ("--outbound-addr=a/b 1", "slirp4netns: Invalid source address 'a/b' for option '--outbound-addr': give"),
        (
            "--enable 1",
            "slirp4netns: option '--enable' is ambiguous; possibilities: '--enable-ipv6' '--enable-sandbox'",
        ),
        ("--bogus 1", "slirp4netns: unrecognized option '--bogus'\n'slirp4netns --help'"),
    ] {
        let message = no(line);
        assert!(message.starts_with(expected), "{line}: {message}");
    }
}

#[test]
fn callers_find_every_feature_in_the_help() {
    let help = printed("--help");
    for name in [
        "--configure",
        "--exit-fd",
        "--ready-fd",
        "--mtu",
        "--enable-ipv6",
        "--api-socket",
        "--cidr",
        "--outbound-addr",
        "--disable-host-loopback",
        "--netns-type",
        "--userns-path",
        "--enable-sandbox",
        "--enable-seccomp",
        "--outbound-addr6",
        "--disable-dns",
        "--macaddress",
        "--target-type",
        "--help",
        "--version",
    ] {
        let found = help.split(|c: char| c.is_whitespace() || c == '=').any(|word| word == name);
        assert!(found, "{name} in {help}");
    }
    assert_eq!(printed("12 tap0 -h"), help);
    assert!(help.lines().all(|l| l.len() <= 100));
}

#[test]
fn the_version_has_the_form_that_programs_read() {
    let text = printed("--mtu=100 --version");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "slirp4netns version 1.2.0");
    assert!(lines[1].starts_with("commit: spelt-"));
}

#[test]
fn the_banner_shows_the_addresses() {
    let lines = |line: &str| slirp(line).banner().unwrap().lines().map(String::from).collect::<Vec<_>>();
    let quiet = lines("--disable-host-loopback --mtu 65520 --cidr 10.9.0.0/16 -a /x.sock 1");
    let expected = [
        "Starting slirp",
        "* MTU:             65520",
        "* Network:         10.9.0.0",
        "* Netmask:         255.255.0.0",
        "* Gateway:         10.9.0.2",
        "* DNS:             10.9.0.3",
        "* Recommended IP:  10.9.0.100",
        "* API Socket:      /x.sock",
    ];
    assert_eq!(quiet, expected);
    assert!(lines("1").last().unwrap().starts_with("WARNING: 127.0.0.1:* on the host is accessible as 10.0.2.2"));
    assert_eq!(pasta("1").banner(), None);
}
