use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;

use super::*;
use crate::fwd::ports::{Ports, Spec};

fn rule(proto: Proto, text: &str) -> Rule {
    Ports::Specs(vec![Spec::parse(proto, text).unwrap()]).rules(&Ports::EPHEMERAL_DEFAULT).unwrap().remove(0)
}

#[test]
fn new_listeners_are_seen_here() {
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = old.local_addr().unwrap().port();
    let before = Listening::look();
    let (tcp4, tcp6) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::]:0").unwrap());
    let udp = UdpSocket::bind("[::1]:0").unwrap();
    let port = |a: std::io::Result<std::net::SocketAddr>| a.unwrap().port();
    let now = Listening::look();
    let missing = |proto, text: String| now.missing(&rule(proto, &text), &before, &[]);
    let (a, b, c) = (port(tcp4.local_addr()), port(tcp6.local_addr()), port(udp.local_addr()));
    assert!(missing(Proto::Tcp, format!("127.0.0.1/{a}")).is_empty());
    assert!(missing(Proto::Tcp, b.to_string()).is_empty());
    assert!(missing(Proto::Udp, format!("[::1]/{c}")).is_empty());
    assert_eq!(missing(Proto::Udp, format!("127.0.0.1/{c}")), [c]);
    // Somebody else's, from before; unless the instance had it.
    let rule = rule(Proto::Tcp, &format!("127.0.0.1/{taken}"));
    assert_eq!(now.missing(&rule, &before, &[]), [taken]);
    assert!(now.missing(&rule, &before, std::slice::from_ref(&rule)).is_empty());
}

#[test]
fn addresses_are_read_as_the_kernel_writes_them() {
    let text = |words: &[[u8; 4]]| words.iter().map(|w| format!("{:08X}", u32::from_ne_bytes(*w))).collect::<String>();
    assert_eq!(endpoint(&(text(&[[127, 0, 0, 1]]) + ":1F90")), Some((Addr::v4([127, 0, 0, 1]), 8080)));
    let v6 = [[0xfe, 0x80, 0, 0], [0; 4], [0; 4], [0, 0, 0, 1]];
    assert_eq!(endpoint(&(text(&v6) + ":0035")), Some((Addr::v6(v6.concat().try_into().unwrap()), 53)));
    assert_eq!((endpoint("0000:1"), endpoint("x"), endpoint("0100007F:z")), (None, None, None));
}

#[test]
fn a_socket_of_this_namespace_is_here() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a socket");
    assert!(!is_here(&path));
    let _listener = UnixListener::bind(&path).unwrap();
    assert!(is_here(&path));
}

#[test]
fn many_ports_are_shown_in_part() {
    assert_eq!(
        (some(&[80]), some(&(1..=10).collect::<Vec<_>>())),
        ("80".into(), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more".into())
    );
}
