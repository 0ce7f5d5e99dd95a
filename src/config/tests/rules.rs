//! The rules that hold for many options at once: which occurrence counts, what belongs to another mode, limits.

use super::super::table::{Faces, OPTIONS};
use super::*;
use crate::base::Mac;

/// The second value of each pair counts, whatever came between.
#[test]
fn the_last_occurrence_wins() {
    let same = |line: &str, last: &str| {
        let line = format!("--config-net -f {line} -4 -m 1400 {last}");
        let alone = format!("--config-net -f -4 -m 1400 {last}");
        assert_eq!(pasta(&format!("{line} 1")), pasta(&format!("{alone} 1")), "{line}");
        let (line, alone) = (line.replace("--config-net", "attach"), alone.replace("--config-net", "attach"));
        assert_eq!(spelt(&format!("{line} 1")), spelt(&format!("{alone} 1")), "{line}");
    };
    for (first, last) in [
        ("-m 9000", "--mtu 1500"),
        ("-a 192.0.2.1", "--address 192.0.2.2/24"),
        ("-a 192.0.2.1/24", "-a 192.0.2.2 -n 16"),
        ("-a fd00::1", "-a fd00::2"),
        ("-n 24", "--netmask 255.255.0.0"),
        ("-g 192.0.2.1", "--gateway 192.0.2.2"),
        ("-g fe80::1", "-g fe80::2"),
        ("-M 02:00:00:00:00:01", "--mac-addr 02:00:00:00:00:02"),
        ("--ns-mac-addr 02:00:00:00:00:01", "--ns-mac-addr 02:00:00:00:00:02"),
        ("-i a", "--interface b"),
        ("-I a", "--ns-ifname b"),
        ("-o 192.0.2.1", "--outbound 192.0.2.2"),
        ("--outbound-if4 a", "--outbound-if4 b"),
        ("--outbound-if6 a", "--outbound-if6 b"),
        ("-H a", "--hostname b"),
        ("--fqdn a", "--fqdn b.c"),
        ("-l /a", "--log-file /b"),
        ("--log-size 99999", "--log-size 88888"),
        ("-p /a", "--pcap /b"),
        ("-P /a", "--pid /b"),
        ("--runas 1", "--runas 2:3"),
        ("--stats 1", "--stats 2"),
        ("--dns-forward 192.0.2.1", "--dns-forward 192.0.2.2"),
        ("--dns-host 192.0.2.1", "--dns-host 192.0.2.2"),
        ("--map-host-loopback 192.0.2.1", "--map-host-loopback 192.0.2.2"),
        ("--map-guest-addr 192.0.2.1", "--map-guest-addr 192.0.2.2"),
        ("-6", "--ipv4-only"),
    ] {
        same(first, last);
    }
    assert_eq!(pasta("--netns /a --netns /b"), pasta("--netns /b"));
    assert_eq!(pasta("--userns /a --userns /b 1"), pasta("--userns /b 1"));
    assert_eq!(pasta("-c /a --conf-path /b 1"), pasta("--conf-path /b 1"));
    assert_eq!(spelt("run -c /a --control none"), spelt("run --control none"));
    assert_eq!(pasta("--dhcp-dns --no-dhcp-dns 1"), pasta("1"));
    assert_eq!(pasta("--no-dhcp-search --dhcp-search 1"), pasta("--dhcp-search 1"));
}

/// Each family has its own value: a later option of the other family leaves it alone.
#[test]
fn values_count_once_for_each_family() {
    for option in ["-a", "-g", "-o", "--dns-forward", "--dns-host", "--map-host-loopback", "--map-guest-addr"] {
        let (v4, v6) = (format!("{option} 192.0.2.1"), format!("{option} fd00::1"));
        assert_eq!(pasta(&format!("{v4} {v6} 1")), pasta(&format!("{v6} {v4} 1")), "{option}");
        assert_ne!(pasta(&format!("{v4} {v6} 1")), pasta(&format!("{v6} 1")), "{option}");
    }
}

/// One line, without the usage, also before `--version`.
#[test]
fn options_of_the_other_mode_are_refused_by_name() {
    for (name, other, own, of_other) in
        [("pasta", "passt", Faces::PASTA, Faces::PASST), ("passt", "pasta", Faces::PASST, Faces::PASTA)]
    {
        let mut count = 0;
        for def in OPTIONS.iter().filter(|d| d.faces.contains(of_other) && !d.faces.contains(own)) {
            let value = if def.value.is_some() { " 3" } else { "" };
            let sentence = format!("--{} is for {other} mode only", def.long);
            assert_eq!(refused(name, &format!("--{}{value} 1", def.long)), sentence);
            assert_eq!(refused(name, &format!("--{}{value} --version", def.long)), sentence);
            if let Some(letter) = def.short {
                assert_eq!(refused(name, &format!("-{letter}{value} true")), sentence);
            }
            count += 1;
        }
        assert_eq!(count, if name == "pasta" { 9 } else { 15 }, "{name}");
    }
    assert!(refused("spelt", "run --socket 3").contains("unexpected argument '--socket'"));
    assert!(refused("spelt", "run --socket 3").contains("it is an option of 'spelt vm'"));
    assert!(refused("spelt", "vm --ns-ifname x").contains("it is an option of 'spelt run'"));
}

#[test]
fn what_comes_before_version_and_help_must_be_valid() {
    for line in ["-m 70000 --version", "-t 0 --version", "--x --help", "-Z -h", "--quiet=1 --version"] {
        refused("pasta", line);
    }
    for line in ["-e --version", "-4 -q -t 80 --version", "--netns /x --version", "-t 80 -t 80 -h", "--vers", "-fh"] {
        assert!(matches!(parse("pasta", &words(line)), Ok(Command::Print { stdout: true, status: 0, .. })), "{line}");
    }
    // A command's own.
    assert_eq!(pasta("true --version").mode, spawn(&["true", "--version"]));
    assert_eq!(spelt("run true --version").mode, spawn(&["true", "--version"]));
    for line in ["--version=1", "--help=1"] {
        assert!(refused("pasta", line).contains("doesn't allow an argument"), "{line}");
    }
}

/// A single number is a process; with anything behind it, it is a command.
#[test]
fn options_end_at_the_first_operand() {
    assert_eq!(pasta("1234 -q").mode, spawn(&["1234", "-q"]));
    assert_eq!(pasta("true -Z --x").mode, spawn(&["true", "-Z", "--x"]));
    assert_eq!(pasta("-q -- --netns").mode, spawn(&["--netns"]));
    assert_eq!(pasta("-q -- 1234").mode, by_pid(1234));
    assert_eq!(pasta("-mqx".replace("qx", "1500").as_str()).mtu, 1500);
}

#[test]
fn the_limits_of_values() {
    let accepted = [
        "-m 0",
        "-m 68",
        "-m 65520",
        "-m 65521",
        "-n 0",
        "-n 32",
        "-n 255.255.255.255",
        "-a 192.0.2.1/0",
        "-a 192.0.2.1/32",
        "-a fd00::1/128",
        "-a ::ffff:192.0.2.1",
        "-a fe80::1",
        "-g fe80::1",
        "-g 192.0.2.1",
        "-i fifteen-bytes15",
        "-I fifteen-bytes15",
        "--outbound-if4 fifteen-bytes15",
        "-o 127.0.0.1",
        "-o ::1",
        "-D none",
        "-D 127.0.0.53",
        "-S none",
        "--dns-host 127.0.0.1",
        "--dns-host ::1",
        "--log-size 40960",
        "--map-host-loopback none",
        "--map-guest-addr none",
        "-f --stats 1",
        "--runas 0x3e8:0144",
        "--runas nobody",
        "-e",
        "--stderr",
    ];
    for line in accepted {
        assert!(parse("pasta", &words(&format!("{line} 1"))).is_ok(), "{line}");
    }
    let not_of_one_host = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"];
    for option in ["-a", "-g", "-o", "-D", "--dns-forward", "--dns-host", "--map-host-loopback", "--map-guest-addr"] {
        for value in not_of_one_host.iter().chain(&["", "example.org", "192.0.2", "192.0.2.1%eth0"]) {
            assert!(parse("pasta", &[option, value, "1"]).is_err(), "{option} {value}");
        }
    }
    for option in ["-a", "-g", "--dns-forward", "--map-host-loopback", "--map-guest-addr"] {
        for value in ["127.0.0.1", "127.9.9.9", "::1"] {
            assert!(parse("pasta", &[option, value, "1"]).is_err(), "{option} {value}");
        }
    }
    let long = vec!["a".repeat(50); 5].join(".");
    assert_eq!(long.len(), 254);
    for (option, value) in [
        ("-m", "65522"),
        ("-m", "67"),
        ("-m", "-1"),
        ("-m", "1e3"),
        ("-n", "33"),
        ("-n", "255.0.255.0"),
        ("-a", "192.0.2.1/33"),
        ("-a", "fd00::1/129"),
        ("-i", "sixteen-bytes-16"),
        ("-i", ""),
        ("-I", ""),
        ("--outbound-if6", "sixteen-bytes-16"),
        ("--log-size", "40959"),
        ("--log-size", "1M"),
        ("-H", &long),
        ("--fqdn", &long),
        ("-H", ""),
        ("-S", ""),
        ("-P", ""),
        ("-p", ""),
        ("-l", ""),
        ("-c", ""),
        ("--netns", ""),
        ("--dns-forward", "none"),
        ("--dns-host", "none"),
        ("--runas", "4294967295"),
        ("--stats", "1.5"),
        ("-M", "0:0:0:0:0:1"),
    ] {
        assert!(parse("pasta", &["-f", option, value, "1"]).is_err(), "{option} {value}");
    }
}

#[test]
fn options_that_exclude_each_other() {
    for line in [
        "--host-lo-to-ns-lo --no-splice 1",
        "--no-splice --splice-only 1",
        "--no-pidns 1",
        "--no-pidns --netns /n",
        "--no-copy-routes 1",
        "--no-copy-addrs true",
        "-n 24 -a 192.0.2.1/24 1",
        "-a 192.0.2.1/24 -n 24 1",
        "--stats 1 1",
        "--stats 1 --netns /n",
        "--netns /n true",
        "--netns /n 1",
        "--userns /u --netns-only 1",
    ] {
        let sentence = refused("pasta", line);
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
    }
    for line in [
        "--host-lo-to-ns-lo --splice-only 1",
        "--config-net --no-copy-routes 1",
        "--no-pidns true",
        "-f --stats 1 1",
        "--stats 1 true",
        "-n 24 -a fd00::1/64 1",
    ] {
        assert!(parse("pasta", &words(line)).is_ok(), "{line}");
    }
}

/// The ports of one direction and protocol say nothing about the others.
#[test]
fn each_kind_of_ports_has_its_own_default() {
    let kinds = |c: Config| [c.tcp_ports, c.udp_ports, c.tcp_ns, c.udp_ns].map(|p| p == Ports::Auto);
    assert_eq!(kinds(pasta("1")), [true; 4]);
    assert_eq!(kinds(pasta("-t 80 1")), [false, true, true, true]);
    assert_eq!(kinds(pasta("-u none 1")), [true, false, true, true]);
    assert_eq!(kinds(pasta("-T 80 1")), [true, true, false, true]);
    assert_eq!(kinds(pasta("-U 53 1")), [true, true, true, false]);
    let c = pasta("-tnone -unone -Tnone -Unone 1");
    assert_eq!([c.tcp_ports, c.udp_ports, c.tcp_ns, c.udp_ns], [const { Ports::None }; 4]);
}

#[test]
fn ports_towards_the_host_are_on_the_loopback_of_the_namespace() {
    let c = pasta("-T 5000,6000-6001:7000-7001 -U 53:5353 1");
    assert_eq!(rules(&c.tcp_ns), ["%lo/5000-5000:5000-5000", "%lo/6000-6001:7000-7001"]);
    assert_eq!(rules(&c.udp_ns), ["%lo/53-53:5353-5353"]);
    // The other direction is another namespace: the same port there is no conflict.
    assert!(parse("pasta", &words("-t 5000 -T 5000 -u 5000 -U 5000 1")).is_ok());
    for (line, advice) in [
        ("-T 127.0.0.1/80 1", "give no address or interface"),
        ("-U %lo/80 1", "give no address or interface"),
        ("-T */80 1", "give no address or interface"),
        ("-T 80:192.0.2.1/90 1", "give no target address"),
        ("-T 80 --tcp-ns 80 1", "overlaps"),
        ("-T 80 -T none 1", "'none' stands alone"),
        ("-T 80 --no-tcp 1", "'--no-tcp'"),
        ("-U 80 --no-udp 1", "'--no-udp'"),
        ("-U 80-81:90 1", "same length"),
    ] {
        let sentence = refused("pasta", line);
        assert!(sentence.contains(advice), "{line}: {sentence}");
    }
}

#[test]
fn specifications_that_overlap_are_refused() {
    for line in [
        "-t 80,80 1",
        "-t 80 -t */80 1",
        "-t 80 -t 127.0.0.1/80 1",
        "-t 0.0.0.0/80 -t 127.0.0.1/80 1",
        "-t 80 -t %eth0/80 1",
        "-u 50-60,55 1",
    ] {
        assert!(refused("pasta", line).starts_with("Overlapping port specifications for option '-"), "{line}");
    }
    for line in ["-t 127.0.0.1/80 -t ::1/80 1", "-t 0.0.0.0/80 -t ::/80 1", "-t 80 -u 80 1", "-t 80,~80 1"] {
        assert!(parse("pasta", &words(line)).is_ok(), "{line}");
    }
}

/// The two forms that only `spelt` has.
#[test]
fn checking_and_summaries_for_programs() {
    assert!(spelt("run --check -- true").check && spelt("attach --check 1").check);
    assert!(spelt("attach --json 1").json && spelt("run --check --json").json);
    assert!(!spelt("run").check && !spelt("attach 1").json);
    let sentence = refused("spelt", "run --json -- true");
    assert!(sentence.contains("'--json'") && sentence.contains("'--check'"), "{sentence}");
    for option in ["--check", "--json"] {
        assert!(refused("pasta", &format!("{option} 1")).contains(&format!("unrecognized option '{option}'")));
    }
}

#[test]
fn addresses_of_the_link_are_the_documented_ones() {
    let c = pasta("1");
    assert_eq!((c.mtu, c.our_mac, c.ns_mac), (65520, Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]), None));
    assert_eq!((c.log_size_bytes, c.netns_quit, c.pidns, c.splice), (1 << 20, true, true, true));
}
