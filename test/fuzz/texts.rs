//! Texts that others write: requests over the control sockets, port specifications, resolv.conf, command lines.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;

use spelt::base::{Addr, PerFamily};
use spelt::config::{self, Command};
use spelt::control::slirp4netns::REQUEST_BYTES_MAX;
use spelt::control::slirp4netns::codec::{self, Request, Response};
use spelt::fwd::Proto;
use spelt::fwd::ports::{Ports, Rule, Spec};
use spelt::host::Resolv;

/// A request as it comes, byte by byte where it matters: never undecided at its end, never decided otherwise later.
pub fn control(data: &[u8]) {
    let addr = |s: &str| Some(Addr::from(s.parse::<IpAddr>().expect("an address")));
    let guest = PerFamily::new(addr("10.0.2.100"), addr("fd00::100"));
    let whole = codec::decode(data, true, &guest).expect("nothing more comes");
    let part = &data[..data.len() / 2];
    if let Some(Ok(early)) = codec::decode(part, false, &guest)
        && data.len() < REQUEST_BYTES_MAX
    {
        assert_eq!(Ok(&early), whole.as_ref());
    }
    let answer = match whole {
        Ok(Request::Add(rule)) => {
            check_rule(&rule);
            assert!(rule.first == rule.last && rule.target.is_some_and(|t| t.is_unicast() && !t.is_loopback()));
            Response::List(vec![(7, rule)])
        }
        Ok(Request::Remove(id)) => Response::Added(id),
        Ok(Request::List) => Response::Removed,
        Err(why) => {
            assert!(!why.is_empty());
            Response::Error(why)
        }
    };
    let json: serde_json::Value = serde_json::from_slice(&answer.encode()).expect("an answer is JSON");
    assert!(json.get("return").is_some() != json.get("error").is_some());
}

/// What pesto says, or what an instance says to it: never undecided once it was decided, and it can be said again.
pub fn pesto(data: &[u8]) {
    use spelt::control::pesto::codec::{self, Abilities, Table};
    let half = &data[..data.len() / 2];
    let early = codec::read_update(half);
    if !matches!(early, Ok(None)) {
        assert_eq!(codec::read_update(data), early);
    }
    if let Ok(Some(updates)) = codec::read_update(data) {
        updates.iter().flat_map(|u| &u.rules).for_each(check_rule);
        let table = |u: &codec::Update| {
            let rules = u.rules.clone();
            Table { id: u.id, name: String::new(), abilities: Abilities::empty(), rules }
        };
        let tables: Vec<Table> = updates.iter().map(table).collect();
        let again = codec::update(&tables).expect("it was said");
        assert_eq!(codec::read_update(&again), Ok(Some(updates)));
    }
    if let Ok(Some(tables)) = codec::read_hello(data) {
        tables.iter().flat_map(|t| &t.rules).for_each(check_rule);
        // What is no UTF-8 is longer when it has become so.
        if tables.iter().all(|t| t.name.len() < 128) {
            let again = codec::hello(&tables).expect("it was said");
            assert_eq!(codec::read_hello(&again), Ok(Some(tables)));
        }
    }
    if let Some(Err(why)) = codec::read_answer(data) {
        assert!(!why.is_empty());
    }
}

/// Specifications, a line each.
pub fn ports(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut specs = Vec::new();
    for line in text.lines().take(8) {
        for parsed in [Spec::parse(Proto::Tcp, line), Spec::parse_outbound(Proto::Udp, line)] {
            match parsed {
                Ok(spec) => check_spec(&spec, line),
                Err(why) => assert!(!why.is_empty()),
            }
        }
        specs.extend(Spec::parse(Proto::Tcp, line));
    }
    match Ports::Specs(specs).rules(&Ports::EPHEMERAL_DEFAULT) {
        Ok(rules) => {
            for (i, rule) in rules.iter().enumerate() {
                assert!(!rules[..i].iter().any(|earlier| earlier.conflicts(rule)), "{rule} twice");
            }
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

/// Each of its rules is a specification too, and means the same again.
fn check_spec(spec: &Spec, line: &str) {
    assert_eq!(spec.text(), line);
    let specs = Ports::Specs(vec![spec.clone()]);
    let Ok(rules) = specs.rules(&Ports::EPHEMERAL_DEFAULT) else { return };
    let total: usize = rules.iter().map(|r| usize::from(r.last - r.first) + 1).sum();
    assert!(total <= 65_535, "{total} ports");
    for rule in &rules {
        check_rule(rule);
        assert!(specs.origin(rule).is_some(), "{rule} comes from nowhere");
        let device = rule.device.as_deref();
        // Where outbound ports are listened to is not for the user to say.
        if rule.proto == Proto::Tcp {
            let again = Spec::parse(rule.proto, &rule.to_string()).unwrap_or_else(|e| panic!("{rule}: {e}"));
            let again = Ports::Specs(vec![again]).rules(&Ports::EPHEMERAL_DEFAULT).expect("one rule");
            assert_eq!(again, [Rule { best_effort: false, ..rule.clone() }]);
        } else {
            assert_eq!((device, rule.listen, rule.target), (Some("lo"), None, None));
        }
    }
}

fn check_rule(rule: &Rule) {
    assert!(rule.first > 0 && rule.first <= rule.last && rule.target_first > 0);
    assert!(rule.target_last() >= rule.target_first && rule.target_port(rule.last) == rule.target_last());
    assert!(!rule.summary().is_empty());
}

/// Whatever was understood can be written down, and is understood the same.
pub fn resolv(data: &[u8]) {
    let found = Resolv::parse(data);
    let mut text = String::new();
    for server in found.nameservers.v4.iter().chain(&found.nameservers.v6) {
        assert!(!server.is_unspecified());
        text += &format!("nameserver {server}\n");
    }
    assert!(found.nameservers.v4.iter().all(Addr::is_v4) && !found.nameservers.v6.iter().any(Addr::is_v4));
    assert!(found.nameservers.v4.len() <= 3 && found.nameservers.v6.len() <= 3);
    assert!(!found.search.iter().any(|d| d.is_empty() || d.contains(char::is_whitespace)));
    if let [domain] = &found.search[..] {
        text += &format!("domain {domain}\n");
    } else if !found.search.is_empty() {
        text += &format!("search {}\n", found.search.join(" "));
    }
    for options in &found.options {
        assert!(!options.is_empty() && !options.contains('\n'));
        text += &format!("options {options}\n");
    }
    assert_eq!(Resolv::parse(text.as_bytes()), found, "{text:?}");
}

/// A line an argument, after a byte for the name of the program: a configuration, a text to print, or a refusal.
pub fn arguments(data: &[u8]) {
    let [name, rest @ ..] = data else { return };
    let names = ["spelt", "/usr/bin/pasta", "passt.avx2", "slirp4netns", "pesto"];
    let name = names[usize::from(*name) % names.len()];
    let arguments = rest.split(|b| *b == b'\n').take(40).map(|a| OsString::from_vec(a.to_vec())).collect();
    match config::from_args(OsStr::new(name), arguments) {
        Ok(Command::Print { text, .. }) => assert!(!text.is_empty()),
        Ok(Command::Change(wanted)) => assert!(!wanted.path.as_os_str().is_empty()),
        Ok(Command::Run(config) | Command::Attach(config) | Command::Machine(config)) => {
            assert!(config.v4 || config.v6);
            for ports in [&config.tcp_ports, &config.udp_ports, &config.tcp_ns, &config.udp_ns] {
                assert!(ports.rules(&Ports::EPHEMERAL_DEFAULT).is_ok_and(|all| all.iter().all(|r| r.first > 0)));
            }
        }
        Err(exit) => {
            assert!(!exit.message.trim().is_empty() && !exit.message.ends_with('\n'), "{:?}", exit.message);
            assert_eq!(exit.status, 1, "{}", exit.message);
        }
    }
}
