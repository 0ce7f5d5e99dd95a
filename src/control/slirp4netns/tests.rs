//! Whole connections, with a forwarder that only remembers.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use mio::{Events, Poll};

use super::*;
use crate::base::PerFamily;

#[derive(Default)]
struct Fake {
    rules: Vec<(u64, Rule)>,
    refuse: Option<&'static str>,
}

impl Forwarder for Fake {
    fn add(&mut self, rule: Rule) -> Result<u64, String> {
        if let Some(why) = self.refuse {
            return Err(why.into());
        }
        let id = self.rules.last().map_or(1, |(id, _)| id + 1);
        self.rules.push((id, rule));
        Ok(id)
    }

    fn remove(&mut self, id: u64) -> bool {
        let before = self.rules.len();
        self.rules.retain(|(other, _)| *other != id);
        self.rules.len() < before
    }

    fn list(&self) -> Vec<(u64, Rule)> {
        self.rules.clone()
    }
}

/// A server and the loop around it.
struct Bench {
    api: Api,
    poll: Poll,
    fake: Fake,
    /// Clients, in the order in which they were accepted.
    accepted: Vec<Token>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let v4 = Some(std::net::Ipv4Addr::new(10, 0, 2, 100).into());
        let api = Api::bind(&dir.path().join("s"), PerFamily::new(v4, None)).unwrap();
        let poll = Poll::new().unwrap();
        api.register(poll.registry()).unwrap();
        Bench { api, poll, fake: Fake::default(), accepted: Vec::new(), dir }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("s")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    /// Turns of the loop until nothing happens.
    fn turn(&mut self) {
        let mut events = Events::with_capacity(64);
        loop {
            self.poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
            if events.is_empty() {
                return;
            }
            for event in &events {
                let token = Token::from_usize(event.token().0).unwrap();
                let accept = token.kind == Kind::Api || self.api.serve(token, &mut self.fake);
                while accept && let Some(token) = self.api.accept(self.poll.registry()) {
                    self.accepted.push(token);
                }
            }
        }
    }

    fn ask(&mut self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        self.turn();
        text_of(&mut stream)
    }

    fn clients(&self) -> usize {
        self.api.slots.iter().filter(|s| s.client.is_some()).count()
    }
}

fn text_of(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

const ADD: &[u8] = br#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":8080,"guest_port":80}}"#;
const LIST: &[u8] = br#"{"execute":"list_hostfwd"}"#;
const EMPTY: &str = r#"{"return":{"entries":[]},"entries":[]}"#;

#[test]
fn ports_come_and_go() {
    let mut b = Bench::new();
    assert_eq!(b.ask(ADD), r#"{"return":{"id":1}}"#);
    assert!(b.ask(LIST).starts_with(r#"{"return":{"entries":[{"id":1,"proto":"tcp","host_addr":"0.0.0.0""#));
    assert_eq!(b.ask(br#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#), r#"{"return":{}}"#);
    let again = b.ask(br#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#);
    assert!(again.starts_with(r#"{"error":{"desc":"bad request: remove_hostfwd: bad arguments.id"#), "{again}");
    assert_eq!(b.ask(LIST), EMPTY);
    assert_eq!(b.clients(), 0);
}

#[test]
fn a_refusal_says_why() {
    let mut b = Bench::new();
    b.fake.refuse = Some("port 8080 is in use");
    let expected = "bad request: add_hostfwd: slirp_add_hostfwd failed: port 8080 is in use";
    assert_eq!(b.ask(ADD), format!(r#"{{"error":{{"desc":"{expected}"}}}}"#));
}

#[test]
fn an_answer_needs_no_end_of_the_question() {
    let mut b = Bench::new();
    let mut stream = b.connect();
    for half in [&LIST[..10], &LIST[10..]] {
        stream.write_all(half).unwrap();
        b.turn();
    }
    assert_eq!(text_of(&mut stream), EMPTY);
    // The client is over when it closes.
    assert_eq!(b.clients(), 1);
    drop(stream);
    b.turn();
    assert_eq!(b.clients(), 0);
}

#[test]
fn a_client_that_says_too_much_still_gets_its_answer() {
    let mut b = Bench::new();
    let answer = b.ask(&[b' '; 20_000]);
    assert_eq!(answer, r#"{"error":{"desc":"bad request: too large message"}}"#);
    assert_eq!(b.clients(), 0);
}

#[test]
fn a_silent_client_ends_with_its_time() {
    let mut b = Bench::new();
    let mut silent = b.connect();
    b.turn();
    assert_eq!((b.accepted.len(), b.clients()), (1, 1));
    assert!(b.api.expire(b.accepted[0]));
    assert_eq!((text_of(&mut silent).as_str(), b.clients()), ("", 0));
    // Its slot's next client is not its own.
    let _next = b.connect();
    b.turn();
    assert!(!b.api.expire(b.accepted[0]));
    assert_eq!(b.clients(), 1);
}

#[test]
fn clients_beyond_the_limit_wait() {
    let mut b = Bench::new();
    let mut silent: Vec<UnixStream> = (0..CLIENTS_MAX).map(|_| b.connect()).collect();
    let mut late = b.connect();
    late.write_all(LIST).unwrap();
    b.turn();
    assert_eq!((b.accepted.len(), b.clients()), (CLIENTS_MAX, CLIENTS_MAX));
    silent.pop();
    b.turn();
    assert_eq!(text_of(&mut late), EMPTY);
}

#[test]
fn a_long_answer_is_sent_as_fast_as_it_is_read() {
    let mut b = Bench::new();
    for _ in 0..5000 {
        b.ask_add();
    }
    let mut stream = b.connect();
    stream.write_all(LIST).unwrap();
    b.turn();
    stream.set_nonblocking(true).unwrap();
    let mut got = Vec::new();
    let mut piece = [0; 65536];
    for _ in 0..10_000 {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => got.extend_from_slice(&piece[..n]),
            Err(_) => b.turn(),
        }
    }
    let list: serde_json::Value = serde_json::from_slice(&got).unwrap();
    assert_eq!(list["return"]["entries"].as_array().unwrap().len(), 5000);
    assert_eq!(list["entries"][4999]["id"], 5000);
}

#[test]
fn a_stale_socket_is_replaced_and_another_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(Api::bind(&path, PerFamily::default()).unwrap());
    assert!(path.exists());
    assert!(Api::bind(&path, PerFamily::default()).is_ok());
    let file = dir.path().join("f");
    std::fs::write(&file, "precious").unwrap();
    assert!(Api::bind(&file, PerFamily::default()).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

impl Bench {
    fn ask_add(&mut self) {
        let Some(Ok(Request::Add(rule))) = codec::decode(ADD, true, &self.api.guest) else { panic!() };
        self.fake.add(rule).unwrap();
    }
}
