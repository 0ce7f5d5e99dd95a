//! Command lines of pesto.

use super::*;
use crate::config::pesto::{Step, Wanted};
use crate::fwd::{Proto, Side};

fn pesto(line: &str) -> Wanted {
    match parse("/usr/bin/pesto", &words(line)) {
        Ok(Command::Change(wanted)) => *wanted,
        other => panic!("{line}: {other:?}"),
    }
}

fn steps(line: &str) -> String {
    let step = |s: &Step| match s {
        Step::Add => "add".to_string(),
        Step::Delete => "delete".into(),
        Step::Clear(name) => format!("clear {name}"),
        Step::Ports(g) => {
            let proto = if g.proto == Proto::Tcp { "tcp" } else { "udp" };
            let on = if g.on == Side::Host { "host" } else { "guest" };
            format!("{proto} {on} {}", g.spec.as_ref().map_or("none", |_| &g.text))
        }
    };
    pesto(line).steps.iter().map(step).collect::<Vec<_>>().join("; ")
}

#[test]
fn podman_adds_and_deletes() {
    assert_eq!(
        steps("--add -t 0.0.0.0/8080 -t [::]/8080 -u 127.0.0.1/53:5353 /run/user/1000/netns/pasta.sock"),
        "add; tcp host 0.0.0.0/8080; tcp host [::]/8080; udp host 127.0.0.1/53:5353"
    );
    assert_eq!(steps("--delete -t 0.0.0.0/8080 /s"), "delete; tcp host 0.0.0.0/8080");
}

#[test]
fn options_keep_their_order() {
    assert_eq!(
        steps("-A -t 2000 -C HOST -A -T 3000 /s --tcp-ports=2001 -Du5000 --udp-ns none --clear=SPLICE"),
        "add; tcp host 2000; clear HOST; add; tcp guest 3000; tcp host 2001; delete; udp host 5000; udp guest none; clear SPLICE"
    );
    let wanted = pesto("-sd /s");
    assert_eq!((wanted.show, wanted.debug, wanted.steps, wanted.path), (true, true, vec![], "/s".into()));
}

#[test]
fn what_is_wrong_is_named() {
    for (line, part) in [
        ("-A -t 8-9:8 /s", "Invalid port specification '8-9:8' for option '-t'"),
        ("-T 127.0.0.1/80 /s", "give no address or interface"),
        ("-t 5 -t none /s", "'none' stands alone"),
        ("-A -t 5", "Give the path of an instance's socket"),
        ("/a /b", "Unexpected argument '/b'"),
        ("-x /s", "pesto: invalid option -- 'x'\nUsage: pesto"),
        ("-t", "option requires an argument -- 't'"),
        ("--add=1 /s", "option '--add' doesn't allow an argument"),
    ] {
        let message = refused("pesto", line);
        assert!(message.contains(part), "{line}: {message}");
    }
}

#[test]
fn help_and_version_are_printed() {
    for (line, part) in
        [("--help", "-D, --delete"), ("-A --version -x", concat!("pesto ", env!("CARGO_PKG_VERSION"), "\n"))]
    {
        let Ok(Command::Print { text, stdout: true, status: 0 }) = parse("pesto", &words(line)) else {
            panic!("{line}")
        };
        assert!(text.contains(part), "{text}");
    }
}
