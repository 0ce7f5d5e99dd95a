//! What each option sets, and what several together mean.

use super::*;
use crate::base::Mac;

/// True for both command lines where the option exists on both.
fn both(line: &str, test: impl Fn(&Config) -> bool) {
    assert!(test(&pasta(&format!("{line} 1"))), "pasta {line}");
    assert!(test(&spelt(&format!("attach {line} 1"))), "spelt attach {line}");
}

#[test]
fn each_option_sets_its_value() {
    both("-d", |c| c.verbosity == Verbosity::Debug);
    both("--trace -d", |c| c.verbosity == Verbosity::Trace);
    both("-q", |c| c.verbosity == Verbosity::Quiet);
    both("-d -q", |c| c.verbosity == Verbosity::Quiet);
    both("-q --debug", |c| c.verbosity == Verbosity::Debug);
    both("-f", |c| c.foreground);
    both("", |c| !c.foreground && c.verbosity == Verbosity::Normal && c.warnings.is_empty());
    both("-l /l --log-size 40960", |c| c.log_file == Some("/l".into()) && c.log_size_bytes == 40960);
    let c = spelt("run --log-fd 5 --log-format json");
    assert_eq!((c.log_fd, c.log_format), (Some(5), LogFormat::Json));
    for option in ["--log-fd", "--netns-fd", "--userns-fd", "--ready-fd", "--exit-fd"] {
        assert!(refused("pasta", &format!("{option} 5 1")).contains("unrecognized option"), "{option}");
    }
    let c = spelt("attach --netns-fd 0 --userns-fd 5 --ready-fd 6 --exit-fd 7");
    let userns = Some("/proc/self/fd/5".into());
    assert_eq!(c.mode, Mode::Attach { target: Target::Descriptor(0), userns, netns_only: false });
    assert_eq!((c.userns_fd, c.ready_fd, c.exit_fd), (Some(5), Some(6), Some(7)));
    both("-p /p -P /q", |c| c.pcap == Some("/p".into()) && c.pid_file == Some("/q".into()));
    both("-f --stats 5", |c| c.stats_secs == Some(5));
    both("--runas 5:g", |c| c.runas == Some(RunAs { user: Id::Number(5), group: Some(Id::Name("g".into())) }));
    both("--chroot-fallback", |c| c.chroot_fallback);
    assert_eq!(pasta("-c /c 1").conf_path, Some("/c".into()));
    assert_eq!((pasta("1").control, spelt("run").control), (Control::Off, Control::Default));
    assert_eq!(spelt("run -c /c").control, Control::At("/c".into()));
    both("-m 1500 -M 02:00:00:00:00:01", |c| c.mtu == 1500 && c.our_mac == Mac([2, 0, 0, 0, 0, 1]));
    both("--ns-mac-addr 02:00:00:00:00:01", |c| c.ns_mac == Some(Mac([2, 0, 0, 0, 0, 1])));
    both("-i eth0 -I tap9", |c| c.interface == Some("eth0".into()) && c.ns_ifname == Some("tap9".into()));
    both("-o 192.0.2.9 -o fd00::9", |c| c.outbound_addr == PerFamily::new(Some(a("192.0.2.9")), Some(a("fd00::9"))));
    both("--outbound-if4 a --outbound-if6 b", |c| c.outbound_if == PerFamily::new(Some("a".into()), Some("b".into())));
    both("--dns-host 127.0.0.53", |c| c.dns_host == PerFamily::new(Some(a("127.0.0.53")), None));
    both("-H box --fqdn box.example.org.", |c| {
        c.hostname == Some("box".into()) && c.fqdn == Some("box.example.org".into())
    });
    both("--no-tcp --no-udp --no-icmp", |c| !c.tcp && !c.udp && !c.icmp && c.dhcp);
    both("--no-dhcp --no-dhcpv6 --no-ra --no-ndp", |c| !c.dhcp && !c.dhcpv6 && !c.ra && !c.ndp && c.tcp);
    both("--dhcp-dns --dhcp-search --freebind", |c| c.dhcp_dns && c.dhcp_search && c.freebind);
    both("--no-netns-quit --netns-only", |c| !c.netns_quit);
    both("--no-splice", |c| !c.splice);
    both("--splice-only --host-lo-to-ns-lo", |c| c.splice_only && c.host_lo_to_ns_lo);
    both("-6 -4", |c| c.v4 && !c.v6);
    both("-4 -6", |c| !c.v4 && c.v6);
    both("-46 -4", |c| c.v4 && !c.v6);
}

#[test]
fn a_machine_may_wait_for_us() {
    let mode = Mode::Machine { plug: Plug::Connect("/a".into()), one_off: true };
    assert_eq!(spelt("vm --vhost-user --connect /a").mode, mode);
    assert!(refused("passt", "--connect /a").contains("unrecognized option"));
}

#[test]
fn every_option_has_an_effect() {
    let plain = pasta("--config-net --netns /n");
    for def in super::super::table::OPTIONS {
        use super::super::table::{Faces, Group, Opt};
        let value = match def.opt {
            Opt::Help | Opt::Version | Opt::Stderr => continue,
            // Defaults, or refused here.
            Opt::ConfigNet | Opt::NoDhcpDns | Opt::NoDhcpSearch | Opt::NoRa | Opt::NoPidns | Opt::NetnsOnly => continue,
            _ if !def.faces.contains(Faces::PASTA) => continue,
            Opt::Mtu => "1500",
            Opt::Netmask | Opt::Stats => "24",
            Opt::LogSize => "99999",
            Opt::MacAddr | Opt::NsMacAddr => "02:00:00:00:00:01",
            _ if def.group == Group::Ports => "22",
            Opt::Interface | Opt::OutboundIf4 | Opt::OutboundIf6 | Opt::NsIfname | Opt::Hostname => "abc",
            Opt::Fqdn | Opt::Search | Opt::RunAs => "abc",
            Opt::LogFile | Opt::ConfPath | Opt::Pcap | Opt::Pid | Opt::Userns | Opt::Netns => "/abc",
            _ => "192.0.2.77",
        };
        let value = if def.value.is_some() { format!("={value}") } else { String::new() };
        let changed = pasta(&format!("--config-net -f --netns /n --{}{value}", def.long));
        assert!(changed != Config { foreground: def.opt != Opt::Foreground, ..plain.clone() }, "--{}", def.long);
    }
}

#[test]
fn the_loopback_map() {
    both("", |c| c.map_host_loopback == PerFamily::new(Map::Gateway, Map::Gateway));
    both("--no-map-gw", |c| c.map_host_loopback == PerFamily::new(Map::Off, Map::Off));
    both("--map-host-loopback none", |c| c.map_host_loopback == PerFamily::new(Map::Off, Map::Off));
    let to = PerFamily::new(Map::To(a("192.0.2.9")), Map::Off);
    both("--map-host-loopback 192.0.2.9 --no-map-gw", |c| c.map_host_loopback == to);
    both("--no-map-gw --map-host-loopback 192.0.2.9", |c| c.map_host_loopback == to);
    both("--map-host-loopback none --map-host-loopback 192.0.2.9", |c| c.map_host_loopback == to);
    both("--map-host-loopback fd00::9", |c| c.map_host_loopback == PerFamily::new(Map::Gateway, Map::To(a("fd00::9"))));
    both("--map-guest-addr fd00::9 --map-guest-addr 192.0.2.9", |c| {
        c.map_guest_addr == PerFamily::new(Some(a("192.0.2.9")), Some(a("fd00::9")))
    });
    both("--map-guest-addr fd00::9 --map-guest-addr none", |c| c.map_guest_addr == PerFamily::default());
}

#[test]
fn name_servers_and_search_domains() {
    both("", |c| c.dns == Dns::FromHost && c.search == Search::FromHost);
    both("-D none -S none", |c| c.dns == Dns::None && c.search == Search::None);
    both("-D 192.0.2.1 -D fd00::1", |c| c.dns == Dns::Servers(vec![a("192.0.2.1"), a("fd00::1")]));
    both("-D none -D 192.0.2.1", |c| c.dns == Dns::Servers(vec![a("192.0.2.1")]));
    both("-D 192.0.2.1 -D none", |c| c.dns == Dns::None);
    both("-S none. -S example.org", |c| c.search == Search::Domains(vec!["none".into(), "example.org".into()]));
    let c = pasta("-D 192.0.2.1 -D 192.0.2.2 -D 192.0.2.3 -D 192.0.2.4 -D fd00::1 1");
    assert!(matches!(&c.dns, Dns::Servers(s) if s.len() == 4 && s[3] == a("fd00::1")));
    assert_eq!(c.warnings, ["Name server '192.0.2.4' is not used: 3 of its IP version are given before it"]);
    let c = pasta("-S a -S b -S c -S d -S e -S f -S g 1");
    assert!(matches!(&c.search, Search::Domains(d) if d.len() == 6));
    assert_eq!(c.warnings, ["Search domain 'g' is not used: 6 are given before it"]);
    let Ok(Command::Attach(c)) = parse("pasta", &["--search", "a b.example", "1"]) else { panic!() };
    assert_eq!(c.search, Search::Domains(vec!["a".into(), "b.example".into()]));
    for text in ["", " "] {
        assert!(parse("pasta", &["--search", text, "1"]).is_err());
    }
}

#[test]
fn spawning_is_quiet_and_in_the_foreground() {
    let c = pasta("ls -l");
    assert_eq!(c.mode, spawn(&["ls", "-l"]));
    assert!(c.foreground && c.verbosity == Verbosity::Quiet && !c.config_net && c.ra);
    assert_eq!(pasta("").mode, spawn(&[]));
    assert_eq!(pasta("ls").mode, spawn(&["ls"]));
    assert_eq!(pasta("12 34").mode, spawn(&["12", "34"]));
    assert_eq!(pasta("-q -- -x").mode, spawn(&["-x"]));
    assert_eq!(pasta("-d ls").verbosity, Verbosity::Debug);
    assert!(!pasta("--no-pidns ls").pidns);
    let joined = Mode::Spawn { command: vec!["ls".into()], userns: Some("/u".into()), netns_only: false };
    assert_eq!(pasta("--userns /u ls").mode, joined);
    assert_eq!(
        pasta("--netns-only ls").mode,
        Mode::Spawn { command: vec!["ls".into()], userns: None, netns_only: true }
    );
}

#[test]
fn pasta_attaches() {
    assert_eq!(pasta("12").mode, by_pid(12));
    assert_eq!(pasta("--netns /n").mode, by_path("/n"));
    let name = Mode::Attach { target: Target::Name("blue".into()), userns: None, netns_only: false };
    assert_eq!(pasta("--netns blue").mode, name);
    let only = Mode::Attach { target: Target::Pid(12), userns: None, netns_only: true };
    assert_eq!(pasta("--netns-only 12").mode, only);
    let joined = Mode::Attach { target: Target::Pid(12), userns: Some("/u".into()), netns_only: false };
    assert_eq!(pasta("--userns /u 12").mode, joined);
}

#[test]
fn only_spelt_follows_and_not_if_told_so() {
    for line in ["run", "attach 1", "vm"] {
        assert!(spelt(line).follows(), "{line}");
        assert_eq!(spelt(line).keeps_up(), line != "vm", "{line}");
    }
    for line in ["run --no-follow", "attach --no-follow 1", "vm --no-follow", "run --splice-only"] {
        assert!(!spelt(line).follows() && !spelt(line).keeps_up(), "{line}");
    }
    assert!(!spelt("attach --no-config-net 1").keeps_up());
    assert!(!pasta("--config-net 1").follows());
    assert!(refused("pasta", "--no-follow 1").contains("--no-follow"));
}

#[test]
fn spelt_runs() {
    for line in ["run ls -l -m 3", "run -- ls -l -m 3"] {
        let c = spelt(line);
        assert_eq!(c.mode, spawn(&["ls", "-l", "-m", "3"]));
        assert!(c.foreground && c.config_net && !c.ra && c.verbosity == Verbosity::Quiet);
        assert_eq!(c.personality, Personality::Spelt);
        assert_eq!([&c.tcp_ports, &c.udp_ports, &c.tcp_ns, &c.udp_ns], [&Ports::None; 4]);
    }
    assert_eq!(spelt("run").mode, spawn(&[]));
    assert_eq!(spelt("run -- 1234").mode, spawn(&["1234"]));
    assert_eq!(spelt("run 1234").mode, spawn(&["1234"]));
    assert_eq!(spelt("run -qm1500 -- -x").mode, spawn(&["-x"]));
    assert!(!spelt("run --no-config-net").config_net && spelt("run --no-config-net").ra);
    assert!(spelt("run --no-config-net --config-net").config_net);
    assert!(matches!(parse("spelt", &["run"]), Ok(Command::Run(_))));
    assert!(matches!(parse("", &["run"]), Ok(Command::Run(_))));
}

#[test]
fn spelt_attaches() {
    assert_eq!(spelt("attach 12").mode, by_pid(12));
    assert_eq!(spelt("attach /proc/12/ns/net -q").mode, by_path("/proc/12/ns/net"));
    assert_eq!(spelt("attach --netns /n").mode, by_path("/n"));
    let name = Mode::Attach { target: Target::Name("blue".into()), userns: None, netns_only: false };
    assert_eq!(spelt("attach blue").mode, name);
    let c = spelt("attach -t 8080:80,22 --udp-ports=53 12");
    assert!(!c.foreground && c.config_net && c.verbosity == Verbosity::Normal);
    assert_eq!(rules(&c.tcp_ports), ["8080-8080:80-80", "22-22:22-22"]);
    assert_eq!(rules(&c.udp_ports), ["53-53:53-53"]);
}

#[test]
fn isolation_may_be_missing_for_spelt_only_if_told() {
    let all = |line| {
        let Lacks { namespaces, files, filter } = spelt(line).lacks;
        [namespaces, files, filter]
    };
    assert_eq!(all("run"), [Lack::Fatal; 3]);
    for line in ["run --allow-degraded", "attach --allow-degraded 1", "vm --allow-degraded"] {
        assert_eq!(all(line), [Lack::Warning; 3], "{line}");
    }
    let Lacks { namespaces, files, filter } = pasta("1").lacks;
    assert_eq!([namespaces, files, filter], [Lack::Fatal, Lack::Remark, Lack::Fatal]);
    assert!(refused("pasta", "--allow-degraded 1").contains("--allow-degraded"));
    assert_eq!(Lacks::DEGRADED.told(), Lacks { namespaces: Lack::Remark, files: Lack::Remark, filter: Lack::Remark });
}

#[test]
fn queues_and_threads_are_for_spelt_alone() {
    for line in
        ["run --queues 4 --threads 3", "attach 1 --threads 3 --queues 4", "run --queues 2 --queues 4 --threads=3"]
    {
        let c = spelt(line);
        assert_eq!((c.queues, c.threads), (Some(4), Some(3)), "{line}");
    }
    for line in ["run", "attach 1", "vm", "vm --vhost-user", "run --splice-only"] {
        let c = spelt(line);
        assert_eq!((c.queues, c.threads), (None, None), "{line}");
    }
    assert_eq!(spelt("run --queues 8").threads, None);
    for (line, queues) in [
        ("vm --threads 1", None),
        ("run --threads 1", None),
        ("run --splice-only --threads 1 --queues 1", Some(1)),
        ("run --threads 3", Some(3)),
    ] {
        let c = spelt(line);
        assert_eq!((c.queues, c.threads.is_some()), (queues, true), "{line}");
    }
    assert_eq!(spelt("vm --threads 8 --vhost-user").threads, Some(8));
    for name in ["pasta", "passt"] {
        for option in ["--queues", "--threads"] {
            let message = refused(name, &format!("{option} 2"));
            assert!(message.contains(&format!("unrecognized option '{option}'")), "{message}");
        }
    }
}

#[test]
fn forwarding_does_not_depend_on_the_order_of_options() {
    for line in ["-t 22 -4 1", "-4 -t 22 1"] {
        assert_eq!(rules(&pasta(line).tcp_ports), ["0.0.0.0/22-22:22-22"]);
    }
    assert_eq!(rules(&pasta("-t 22 -6 1").tcp_ports), ["[::]/22-22:22-22"]);
    assert!(refused("pasta", "--no-tcp -t 22 1").contains("--no-tcp"));
    assert_eq!(pasta("--no-tcp -t none 1").tcp_ports, Ports::None);
    assert_eq!(pasta("-t 22 1").udp_ports, Ports::Auto);
    assert_eq!(rules(&pasta("-t none -t 22 1").tcp_ports), ["22-22:22-22"]);
}

#[test]
fn a_small_mtu_is_remarked_on() {
    assert_eq!(pasta("-m 1279 1").warnings, ["MTU 1279 is below 1280, so IPv6 will not work on this link"]);
    for line in ["-m 1280 1", "-m 0 1", "-m 576 -4 1"] {
        assert!(pasta(line).warnings.is_empty(), "{line}");
    }
}

#[test]
fn deprecated_options_are_remarked_on() {
    let c = pasta("--config-net --no-copy-routes --no-copy-addrs 1");
    assert!(c.no_copy_routes && c.no_copy_addrs);
    assert_eq!(c.warnings.len(), 2);
}

#[test]
fn the_name_it_is_started_as_decides() {
    for name in ["pasta", "/usr/bin/pasta", "./my-pasta.avx2"] {
        assert_eq!(config(parse(name, &["1"]).unwrap()).personality, Personality::Pasta);
    }
    for name in ["spelt", "/home/pasta/spelt", "something"] {
        assert_eq!(config(parse(name, &["run"]).unwrap()).personality, Personality::Spelt);
    }
}

/// Paths and commands are bytes.
#[test]
fn paths_need_not_be_text() {
    use std::os::unix::ffi::OsStringExt;
    let odd = OsString::from_vec(b"/\xff".to_vec());
    for (argv0, args) in [
        ("pasta", vec!["-P".into(), odd.clone(), odd.clone()]),
        ("spelt", vec!["run".into(), "-P".into(), odd.clone(), odd.clone()]),
    ] {
        let c = config(from_args(OsStr::new(argv0), args).unwrap());
        assert_eq!(c.pid_file.as_deref(), Some(Path::new(&odd)));
        assert_eq!(c.mode, Mode::Spawn { command: vec![odd.clone()], userns: None, netns_only: false });
    }
    let error = from_args(OsStr::new("pasta"), vec!["-m".into(), odd]).unwrap_err();
    assert!(error.message.contains("not UTF-8"), "{}", error.message);
}

proptest::proptest! {
    #[test]
    fn no_arguments_make_it_panic(args in proptest::collection::vec("-{0,2}[a-zA-Z0-9=:/~,.%-]{0,12}|run|attach|\\PC{0,8}", 0..6)) {
        for argv0 in ["pasta", "spelt"] {
            if let Err(exit) = from_args(OsStr::new(argv0), args.iter().map(OsString::from).collect()) {
                proptest::prop_assert_eq!(exit.status, 1);
                proptest::prop_assert!(!exit.message.is_empty());
            }
        }
    }
}
