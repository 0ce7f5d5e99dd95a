//! Whole conversations, with a backend that only remembers.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::codec::{Abilities, Update};
use super::*;
use crate::fwd::Proto;
use crate::fwd::ports::{Ports, Rule, Spec};

struct Fake {
    rules: Mutex<Vec<Rule>>,
    replaced: Sender<usize>,
}

impl Backend for Fake {
    fn tables(&self) -> Result<Vec<Table>, String> {
        let rules = self.rules.lock().unwrap().clone();
        Ok(vec![Table { id: codec::HOST, name: "HOST".into(), abilities: Abilities::all(), rules }])
    }

    fn replace(&self, updates: Vec<Update>, client: i32) -> Result<(), String> {
        assert_eq!(client, std::process::id() as i32);
        let rules: Vec<Rule> = updates.into_iter().flat_map(|u| u.rules).collect();
        self.replaced.send(rules.len()).unwrap();
        if rules.iter().any(|r| r.first < 1024) {
            return Err("Permission denied".into());
        }
        *self.rules.lock().unwrap() = rules;
        Ok(())
    }
}

struct Bench {
    dir: tempfile::TempDir,
    replaced: Receiver<usize>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let owner = Owner { uid: nix::unistd::geteuid().as_raw(), unknown: None };
        let server = Server::new(listener, owner).unwrap();
        let (sender, replaced) = channel();
        let fake = Fake { rules: Mutex::default(), replaced: sender };
        // Ends with the process.
        thread::spawn(move || server.run(&fake));
        Bench { dir, replaced }
    }

    fn client(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("s")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// A client whose turn has come, and the tables.
    fn greeted(&self) -> (UnixStream, Vec<Table>) {
        let mut stream = self.client();
        let mut said = Vec::new();
        loop {
            let mut room = [0; 4096];
            let n = stream.read(&mut room).unwrap();
            assert!(n > 0);
            said.extend_from_slice(&room[..n]);
            if let Some(tables) = codec::read_hello(&said).unwrap() {
                return (stream, tables);
            }
        }
    }
}

fn tables(text: &str) -> Vec<Table> {
    let rules = Ports::Specs(vec![Spec::parse(Proto::Tcp, text).unwrap()]).rules(&Ports::EPHEMERAL_DEFAULT).unwrap();
    vec![Table { id: codec::HOST, name: String::new(), abilities: Abilities::empty(), rules }]
}

fn answer(mut stream: UnixStream) -> Option<Result<(), String>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    codec::read_answer(&all)
}

#[test]
fn tables_are_told_replaced_and_told_again() {
    let bench = Bench::new();
    let (mut stream, before) = bench.greeted();
    assert_eq!(before[0].rules, []);
    let message = codec::update(&tables("8000-8010")).unwrap();
    let (first, second) = message.split_at(30);
    stream.write_all(first).unwrap();
    thread::sleep(Duration::from_millis(10));
    stream.write_all(second).unwrap();
    assert_eq!(answer(stream), Some(Ok(())));
    assert_eq!(bench.greeted().1[0].rules, tables("8000-8010")[0].rules);
}

#[test]
fn what_cannot_be_is_answered() {
    let bench = Bench::new();
    let (mut stream, _) = bench.greeted();
    stream.write_all(&codec::update(&tables("80")).unwrap()).unwrap();
    assert_eq!(answer(stream), Some(Err("Permission denied".into())));
    let (mut stream, _) = bench.greeted();
    stream.write_all(b"\x01\xff\xff\xff\xff").unwrap();
    assert!(answer(stream).unwrap().unwrap_err().contains("this is no request of pesto's"));
}

/// As pesto does.
#[test]
fn who_leaves_without_an_answer_is_served() {
    let bench = Bench::new();
    let (mut stream, _) = bench.greeted();
    stream.write_all(&codec::update(&tables("8000,8001")).unwrap()).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    assert_eq!(bench.replaced.recv_timeout(Duration::from_secs(10)), Ok(2));
    assert_eq!(bench.greeted().1[0].rules.len(), 2);
}

#[test]
fn one_has_its_turn_after_the_other() {
    let bench = Bench::new();
    let (first, _) = bench.greeted();
    let mut second = bench.client();
    second.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap(), 1);
    // It has not said all, and goes.
    second.write_all(&[1, 0]).unwrap();
    drop(second);
    bench.greeted();
    assert!(bench.replaced.try_recv().is_err());
}
