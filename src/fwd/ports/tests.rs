use proptest::prelude::*;

use super::*;

fn a(s: &str) -> Addr {
    s.parse::<std::net::IpAddr>().unwrap().into()
}

fn spec(text: &str) -> Result<Spec, String> {
    Spec::parse(Proto::Tcp, text)
}

fn rules(text: &str) -> Vec<Rule> {
    Ports::Specs(vec![spec(text).unwrap()]).rules(&(32768..=60999)).unwrap()
}

fn together(specs: &[&str]) -> Result<usize, String> {
    let specs = specs.iter().map(|s| spec(s).unwrap()).collect();
    Ports::Specs(specs).rules(&(32768..=60999)).map(|r| r.len())
}

/// Short form of a rule: its specification.
fn texts(text: &str) -> Vec<String> {
    rules(text).iter().map(Rule::to_string).collect()
}

#[test]
fn specifications_that_are_accepted() {
    let cases: &[(&str, &[&str])] = &[
        ("22", &["22-22:22-22"]),
        ("22:23", &["22-22:23-23"]),
        ("22,25", &["22-22:22-22", "25-25:25-25"]),
        ("22-80", &["22-80:22-80"]),
        ("22-80:32-90", &["22-80:32-90"]),
        ("192.0.2.1/22", &["192.0.2.1/22-22:22-22"]),
        ("192.0.2.1%eth0/22", &["192.0.2.1%eth0/22-22:22-22"]),
        ("%eth0/22", &["%eth0/22-22:22-22"]),
        ("*/22", &["22-22:22-22"]),
        ("*%eth0/22", &["%eth0/22-22:22-22"]),
        ("/22", &["22-22:22-22"]),
        ("[192.0.2.1]/22", &["192.0.2.1/22-22:22-22"]),
        ("2000-5000,~3000-3010", &["2000-2999:2000-2999", "3011-5000:3011-5000"]),
        ("~3000-3010,2000-5000", &["2000-2999:2000-2999", "3011-5000:3011-5000"]),
        ("192.0.2.1/20-30,~25", &["192.0.2.1/20-24:20-24", "192.0.2.1/26-30:26-30"]),
        ("20-30:120-130,~25,~24-26", &["20-23:120-123", "27-30:127-130"]),
        ("22,~22", &[]),
        ("::1/80-80:80-80", &["[::1]/80-80:80-80"]),
        ("[::]/8080", &["[::]/8080-8080:8080-8080"]),
        ("0.0.0.0/80", &["0.0.0.0/80-80:80-80"]),
        ("fe80::1%eth0/80:8080", &["[fe80::1]%eth0/80-80:8080-8080"]),
        ("[fe80::1]%eth0/80", &["[fe80::1]%eth0/80-80:80-80"]),
        ("::ffff:192.0.2.1/80", &["192.0.2.1/80-80:80-80"]),
        ("2022:fd00::50/33", &["[2022:fd00::50]/33-33:33-33"]),
        ("0.0.0.0/2022:192.0.2.9/33", &["0.0.0.0/2022-2022:192.0.2.9/33-33"]),
        ("0.0.0.0/2022:192.0.2.9", &["0.0.0.0/2022-2022:192.0.2.9/2022-2022"]),
        ("::/2022:[fd00::50]/33", &["[::]/2022-2022:[fd00::50]/33-33"]),
        ("::/2022:fd00::50", &["[::]/2022-2022:[fd00::50]/2022-2022"]),
        ("::/2022:[fd00::50]", &["[::]/2022-2022:[fd00::50]/2022-2022"]),
        ("2022:0.0.0.0/33", &["2022-2022:33-33"]),
        ("22,auto", &["22-22:22-22,auto"]),
        ("00080", &["80-80:80-80"]),
        ("65535:1", &["65535-65535:1-1"]),
    ];
    for (text, expected) in cases {
        assert_eq!(texts(text), *expected, "{text}");
    }
}

#[test]
fn specifications_that_are_refused() {
    let cases = [
        ("", "no port"),
        ("1.2.3.4/", "no port"),
        ("22,", "comma"),
        (",22", "comma"),
        ("22,,23", "comma"),
        ("a-b-c", "'a' is not a port"),
        ("1-2-3", "'2-3' is not a port"),
        ("80-22", "ends before"),
        ("0", "'0' is not a port"),
        ("22:0", "'0' is not a port"),
        ("65536", "'65536' is not a port"),
        ("+22", "'+22' is not a port"),
        ("22:", "'' is not a port"),
        ("22-", "'' is not a port"),
        ("~", "'' is not a port"),
        ("~22:33", "'22:33' is not a port"),
        ("2022-2030:3200", "same length"),
        ("2022-2030:3200-3209", "same length"),
        ("22/33", "'22/33' is not a port"),
        ("host/33", "'host' is not an IPv4"),
        ("1.2.3/33", "'1.2.3' is not an IPv4"),
        ("[1.2.3]/33", "not an IPv4 or IPv6"),
        ("[::1/33", "not an IPv4 or IPv6"),
        ("1.2.3.4%/33", "interface name"),
        ("1.2.3.4%sixteen-bytes-xx/33", "interface name"),
        ("none,22", "stands alone"),
        ("all:80", "not a target address"),
        ("2022:192.0.2.9/33", "begin with '0.0.0.0/'"),
        ("2022:[fd00::50]/33", "begin with '[::]/'"),
        ("*/2022:192.0.2.9", "begin with '0.0.0.0/'"),
        ("all:192.0.2.9", "begin with '0.0.0.0/'"),
        ("0.0.0.0/2022:[fd00::50]/33", "one IP version"),
        ("::/2022:fd00::50/33", "in brackets: '[fd00::50]/33'"),
        ("0.0.0.0/2022:224.0.0.1", "not the address of one host"),
        ("0.0.0.0/2022:255.255.255.255", "not the address of one host"),
    ];
    for (text, expected) in cases {
        let error = spec(text).expect_err(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn all_leaves_out_the_ephemeral_ports() {
    assert_eq!(texts("all"), ["1-32767:1-32767", "61000-65535:61000-65535"]);
    assert_eq!(texts("all,~1-60000"), ["61000-65535:61000-65535"]);
    assert_eq!(texts("~22"), ["1-21:1-21", "23-32767:23-32767", "61000-65535:61000-65535"]);
    assert_eq!(texts("auto"), ["1-32767:1-32767,auto", "61000-65535:61000-65535,auto"]);
    assert_eq!(texts("0.0.0.0/all:192.0.2.9,~1-60999"), ["0.0.0.0/61000-65535:192.0.2.9/61000-65535"]);
    assert!(rules("all").iter().chain(&rules("~5")).all(|r| r.best_effort));
    assert!(rules("40000").iter().all(|r| !r.best_effort && r.first == 40000));
}

#[test]
fn the_default_is_auto() {
    let summary = |ports: &Ports| ports.rules(&(1..=60999)).unwrap().iter().map(Rule::summary).collect::<Vec<_>>();
    let inbound = Ports::Auto.explicit(Proto::Tcp, Side::Host, None);
    assert_eq!(summary(&inbound), ["TCP [*]:61000-65535  =>  61000-65535  (best effort) (auto-scan)"]);
    assert_eq!(inbound.origin(&inbound.rules(&(1..=60999)).unwrap()[0]), Some("auto"));
    let outbound = Ports::Auto.explicit(Proto::Udp, Side::Guest, Some(Family::V4));
    assert_eq!(summary(&outbound), ["UDP [0.0.0.0]%lo:61000-65535  =>  61000-65535  (best effort) (auto-scan)"]);
    assert_eq!(Ports::None.explicit(Proto::Tcp, Side::Host, None), Ports::None);
}

#[test]
fn overlapping_rules_conflict() {
    let conflicts: &[&[&str]] = &[
        &["22", "22"],
        &["22", "22:23"],
        &["20-30", "25-40"],
        &["22", "192.0.2.1/22"],
        &["0.0.0.0/22", "192.0.2.1/22"],
        &["::/22", "22"],
        &["all", "22"],
        &["auto", "22"],
        &["22", "%eth0/22"],
        &["22,22"],
        &["all,22"],
    ];
    for specs in conflicts {
        assert!(together(specs).is_err(), "{specs:?}");
    }
    let fine: &[&[&str]] = &[
        &["22", "23"],
        &["0.0.0.0/22", "::/22"],
        &["192.0.2.1/22", "192.0.2.2/22"],
        &["%eth0/22", "%eth1/22"],
        &["all", "40000"],
        &["all,~22", "22:2222"],
    ];
    for specs in fine {
        assert!(together(specs).is_ok(), "{specs:?}");
    }
    assert_eq!(
        together(&["20-30", "25"]).unwrap_err(),
        "'25' overlaps '20-30' in port 25: leave it out of one of them"
    );
    assert_eq!(together(&["25,25"]).unwrap_err(), "port 25 occurs twice in '25,25': leave one of them out");
}

#[test]
fn listening_to_the_guest_is_on_its_loopback() {
    let spec = Spec::parse_outbound(Proto::Udp, "53:5353").unwrap();
    let rules = Ports::Specs(vec![spec]).rules(&Ports::EPHEMERAL_DEFAULT).unwrap();
    assert_eq!(rules[0].summary(), "UDP [*]%lo:53  =>  5353");
    for text in ["127.0.0.1/53", "%eth0/53", "*/53", "[::1]/53", "/53", "127.0.0.1/all", "*/auto"] {
        let advice = Spec::parse_outbound(Proto::Udp, text).unwrap_err();
        assert!(advice.contains("give no address or interface"), "{text}: {advice}");
    }
    for text in ["53:192.0.2.1", "53:192.0.2.1/5353", "53:[::1]/5353", "all:::1"] {
        let advice = Spec::parse_outbound(Proto::Udp, text).unwrap_err();
        assert!(advice.contains("give no target address"), "{text}: {advice}");
    }
}

#[test]
fn one_family_only() {
    let mut any = spec("22").unwrap();
    assert!(any.limit(Family::V4));
    assert_eq!(any.rules(&Ports::EPHEMERAL_DEFAULT)[0].listen, Some(a("0.0.0.0")));
    assert!(!spec("[::1]/22").unwrap().limit(Family::V4));
    assert!(spec("[::1]/22").unwrap().limit(Family::V6));
}

#[test]
fn a_rule_knows_where_it_came_from() {
    let ports = Ports::Specs(["1-9,~5", "127.0.0.1/22:2222", "all,~1-100"].map(|t| spec(t).unwrap()).to_vec());
    let origins: Vec<_> =
        ports.rules(&(32768..=60999)).unwrap().iter().map(|r| ports.origin(r).unwrap().to_string()).collect();
    assert_eq!(origins, ["1-9,~5", "1-9,~5", "127.0.0.1/22:2222", "all,~1-100", "all,~1-100"]);
}

#[test]
fn the_summary_shows_all_of_a_rule() {
    assert_eq!(rules("192.0.2.1%eth0/22:23")[0].summary(), "TCP [192.0.2.1]%eth0:22  =>  23");
    assert_eq!(rules("::/22:[fd00::1]/23")[0].summary(), "TCP [::]:22  =>  [fd00::1]:23");
    assert_eq!(
        rules("all,auto,~1-60999")[0].summary(),
        "TCP [*]:61000-65535  =>  61000-65535  (best effort) (auto-scan)"
    );
    assert_eq!(rules("auto,8000-8010")[0].summary(), "TCP [*]:8000-8010  =>  8000-8010  (auto-scan)");
}

#[test]
fn ports_are_translated_by_their_offset() {
    let rule = &rules("20-30:120-130")[0];
    assert_eq!((rule.target_port(20), rule.target_port(30), rule.target_last()), (120, 130, 130));
    let down = &rules("60-70:1-11")[0];
    assert_eq!(down.target_port(65), 6);
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let v4 = any::<[u8; 4]>().prop_map(Addr::v4);
    let v6 = any::<[u8; 16]>().prop_map(Addr::v6);
    let unicast = |a: &Addr| a.is_unicast();
    let of_one_family = prop_oneof![
        (v4.clone(), proptest::option::of(v4.prop_filter("unicast", unicast))),
        (v6.clone(), proptest::option::of(v6.prop_filter("unicast", unicast))),
    ]
    .prop_filter("one family", |(l, t)| t.is_none_or(|t| t.family() == l.family()));
    let addrs = prop_oneof![Just((None, None)), of_one_family.prop_map(|(l, t)| (Some(l), t))];
    let range = (1u16..=65535, 1u16..=65535, 0u16..65535)
        .prop_map(|(first, to, len)| (first, to, len.min(65535 - first).min(65535 - to)));
    (addrs, proptest::option::of("[a-z][a-z0-9.-]{0,14}"), range, any::<bool>()).prop_map(
        |((listen, target), device, (first, target_first, len), auto)| Rule {
            proto: Proto::Tcp,
            listen,
            device,
            first,
            last: first + len,
            target_first,
            target,
            best_effort: false,
            auto,
        },
    )
}

proptest! {
    #[test]
    fn a_rule_survives_its_text(rule in any_rule()) {
        let text = rule.to_string();
        prop_assert_eq!(rules(&text), vec![rule]);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[0-9a-f:/,~%*.\\[\\]-]{0,24}|(all|auto|none|[0-9]{1,5}|[-:,/~])*|\\PC*") {
        if let Ok(s) = spec(&text) {
            for rule in s.rules(&Ports::EPHEMERAL_DEFAULT) {
                prop_assert!(rule.first >= 1 && rule.first <= rule.last);
                prop_assert!(rule.target_first >= 1);
                prop_assert!(u32::from(rule.target_first) + u32::from(rule.last - rule.first) <= 65535);
            }
        }
    }
}
