//! Whole connections, with a backend that only remembers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::base::Counters;
use crate::control::protocol::{CaptureCounts, FlowCounts, ForwardOption, Stats, UNKNOWN_METHOD};

struct Fake;

impl Backend for Fake {
    fn info(&self) -> Info {
        Info {
            protocol: 1,
            program: "spelt".into(),
            version: "0".into(),
            pid: 1,
            mode: "run".into(),
            target: String::new(),
            uptime_seconds: 0.5,
            workers: 1,
        }
    }

    fn config(&self) -> Value {
        serde_json::json!({ "mtu": 1500 })
    }

    fn stats(&self) -> Result<Value, Failure> {
        Ok(json(&Stats::new(&Counters::default(), FlowCounts::default(), CaptureCounts::default())))
    }

    fn metrics(&self) -> Result<String, Failure> {
        Ok(crate::control::metrics::text(
            &self.info(),
            &Stats::new(&Counters::default(), FlowCounts::default(), CaptureCounts::default()),
        ))
    }

    fn flows(&self, _: &Filter) -> Result<Found, Failure> {
        Ok(Found::default())
    }

    fn forwards(&self) -> Result<Vec<Forward>, Failure> {
        Err(Failure::new(protocol::FAILED, "busy"))
    }

    fn add_forwards(&self, rules: Vec<NewForward>) -> Result<Vec<Forward>, Failure> {
        let forward = |(i, new): (usize, &NewForward)| Forward {
            id: i as u64,
            option: new.option,
            spec: new.spec.clone(),
            origin: String::new(),
            open: 1,
            refused: Vec::new(),
            bind_errors: Vec::new(),
            bytes_to_guest: 0,
            bytes_from_guest: 0,
            hits: 0,
        };
        Ok(rules.iter().enumerate().map(forward).collect())
    }

    fn delete_forwards(&self, _: Vec<u64>) -> Result<(), Failure> {
        Ok(())
    }

    fn captures(&self) -> Captures {
        Captures::default()
    }

    /// Writes that it would.
    fn start_capture(&self, options: CaptureOptions, output: Option<OwnedFd>) -> Result<Capture, Failure> {
        let output = output.ok_or_else(|| Failure::new(protocol::FAILED, "nowhere"))?;
        std::fs::File::from(output).write_all(b"began").unwrap();
        Ok(Capture { id: 1, frames: 0, bytes: 0, lost: 0, complete: false, options })
    }

    fn stop_captures(&self, _: Vec<u64>) -> Result<Captures, Failure> {
        Ok(Captures::default())
    }

    fn quit(&self) {}
}

/// A service in a thread that ends with the test.
fn serve() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let service = Service::new(listener, Owner { uid: nix::unistd::geteuid().as_raw(), unknown: None }).unwrap();
    std::thread::spawn(move || service.run(&Fake));
    (dir, path)
}

fn ask(path: &std::path::Path, lines: &str) -> Vec<Value> {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(lines.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    BufReader::new(stream).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

#[test]
fn requests_are_answered_in_order() {
    let (_dir, path) = serve();
    let replies = ask(
        &path,
        "{\"id\":1,\"method\":\"info\"}\n\n{\"method\":\"log.set\",\"params\":{\"level\":\"info\"}}\n{\"id\":\"b\",\"method\":\"config.get\"}\n\
         {\"id\":3,\"method\":\"forward.list\"}\n{\"id\":4,\"method\":\"nothing\"}\n{\"id\":5,\"method\":\"metrics.get\"}",
    );
    let ids: Vec<_> = replies.iter().map(|r| r["id"].clone()).collect();
    assert_eq!(ids, [Value::from(1), Value::from("b"), Value::from(3), Value::from(4), Value::from(5)]);
    assert_eq!(
        (&replies[0]["result"]["mode"], &replies[1]["result"]["mtu"]),
        (&Value::from("run"), &Value::from(1500))
    );
    assert_eq!(replies[2]["error"]["message"], "busy");
    assert_eq!(replies[3]["error"]["code"], UNKNOWN_METHOD);
    assert!(replies[4]["result"]["text"].as_str().unwrap().ends_with("# EOF\n"));
}

#[test]
fn parameters_reach_the_backend() {
    let (_dir, path) = serve();
    let line = r#"{"id":1,"method":"forward.add","params":{"forwards":[{"option":"-U","spec":"53"}]}}"#;
    let reply = ask(&path, line).remove(0);
    let forward: Forward = serde_json::from_value(reply["result"]["forwards"][0].clone()).unwrap();
    assert_eq!((forward.option, forward.spec.as_str()), (ForwardOption::UdpToHost, "53"));
}

#[test]
fn silent_and_slow_clients_hold_up_nobody() {
    let (_dir, path) = serve();
    let mut slow = UnixStream::connect(&path).unwrap();
    // Far more replies than a socket takes, and none is read.
    let many = "{\"id\":1,\"method\":\"stats.get\"}\n".repeat(2000);
    slow.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let _ = slow.write_all(many.as_bytes());
    let _silent: Vec<_> = (0..CLIENTS_MAX - 2).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(ask(&path, "{\"id\":9,\"method\":\"info\"}\n").len(), 1);
}

#[test]
fn a_descriptor_comes_with_its_request() {
    let (_dir, path) = serve();
    let mut stream = UnixStream::connect(&path).unwrap();
    let (read, write) = nix::unistd::pipe().unwrap();
    let line = b"{\"id\":1,\"method\":\"capture.start\",\"params\":{\"port\":53}}\n";
    crate::sys::fdpass::send(stream.as_fd(), line, Some(write.as_fd())).unwrap();
    // The same again, without one.
    stream.write_all(line).unwrap();
    drop(write);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let replies: Vec<Value> =
        BufReader::new(stream).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(replies[0]["result"]["options"]["port"], 53);
    assert_eq!(replies[1]["error"]["message"], "nowhere");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::fs::File::from(read), &mut text).unwrap();
    assert_eq!(text, "began");
}
