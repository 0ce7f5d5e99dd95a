//! Requests and replies: JSON-RPC 2.0, a message a line. `doc/control.md` describes it for other programs. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::capture::{CaptureOptions, Stopped};
use crate::base::{Counters, DropReason, Endpoint};
use crate::flow::{Protocol, View};
use crate::link::recording;

/// What [`Info::protocol`] says. It grows when something is taken away or means something else; what is added does not count.
pub const VERSION: u32 = 1;

/// What can be asked for.
#[derive(Clone, Debug)]
pub enum Request {
    Info,
    Config,
    Stats,
    Metrics,
    Flows(Filter),
    Forwards,
    AddForwards(Rules),
    DeleteForwards(Deleted),
    Captures,
    /// Into the descriptor that came with it.
    StartCapture(CaptureOptions),
    StopCaptures(Stopped),
    LogLevel,
    SetLogLevel(Level),
    Quit,
}

/// Which flows, in which order, how many.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// `tcp`, `udp`, `icmp`, and with `-splice` those past the link.
    pub protocol: Option<String>,
    /// At any end.
    pub address: Option<std::net::IpAddr>,
    pub port: Option<u16>,
    pub state: Option<String>,
    #[serde(default)]
    pub sort: Sort,
    /// [`Filter::LIMIT`] if it is not given; [`Filter::LIMIT_MAX`] at most.
    pub limit: Option<usize>,
    /// Say the ends of the host's sockets too.
    pub host: bool,
}

impl Filter {
    pub const LIMIT: usize = 1000;
    pub const LIMIT_MAX: usize = 10_000;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// Most first, both ways together.
    #[default]
    Bytes,
    /// Oldest first.
    Age,
    /// Used last first.
    Idle,
    /// By the port at the guest.
    Port,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// All of them are added, or none.
    pub forwards: Vec<NewForward>,
}

/// As on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewForward {
    pub option: ForwardOption,
    pub spec: String,
}

/// `-t`, `-u`: from the host to the guest; `-T`, `-U`: from the guest to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum ForwardOption {
    #[serde(rename = "-t")]
    TcpToGuest,
    #[serde(rename = "-u")]
    UdpToGuest,
    #[serde(rename = "-T")]
    TcpToHost,
    #[serde(rename = "-U")]
    UdpToHost,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deleted {
    /// All of them are deleted, or none.
    pub ids: Vec<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// `error`, `warn`, `info`, `debug`, `trace`.
    pub level: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Info {
    pub protocol: u32,
    /// Name it was started by, and its version.
    pub program: String,
    pub version: String,
    pub pid: u32,
    /// `run`, `attach` or `vm`, and for whom.
    pub mode: String,
    pub target: String,
    pub uptime_seconds: f64,
    pub workers: usize,
}

/// Counters of all workers, and flows there are now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    pub frames_from_guest: u64,
    pub bytes_from_guest: u64,
    pub frames_to_guest: u64,
    pub bytes_to_guest: u64,
    pub flows: FlowCounts,
    /// Every reason, those that have not occurred included.
    pub drops: Vec<Drops>,
    #[serde(default)]
    pub captures: CaptureCounts,
}

/// Of all captures of this instance, those included that have ended.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct CaptureCounts {
    pub running: usize,
    pub frames: u64,
    pub lost: u64,
}

impl CaptureCounts {
    pub fn of(recordings: &recording::Recordings) -> CaptureCounts {
        let recording::Counts { frames, lost, .. } = recordings.counts();
        CaptureCounts { running: recordings.running().len(), frames, lost }
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FlowCounts {
    pub tcp: usize,
    pub udp: usize,
    pub icmp: usize,
    pub tcp_splice: usize,
    pub udp_splice: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drops {
    pub reason: String,
    pub meaning: String,
    pub count: u64,
}

impl Stats {
    pub fn new(counters: &Counters, flows: FlowCounts, captures: CaptureCounts) -> Stats {
        let drops = DropReason::ALL.iter().map(|reason| Drops {
            reason: reason.name().into(),
            meaning: reason.meaning().into(),
            count: counters.dropped(*reason),
        });
        Stats {
            frames_from_guest: counters.frames_from_guest,
            bytes_from_guest: counters.bytes_from_guest,
            frames_to_guest: counters.frames_to_guest,
            bytes_to_guest: counters.bytes_to_guest,
            flows,
            drops: drops.collect(),
            captures,
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Flows {
    /// How many fit the filter; fewer may be listed.
    pub total: usize,
    pub flows: Vec<Flow>,
}

/// Durations in seconds; see [`View`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flow {
    pub protocol: String,
    pub guest: String,
    pub remote: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Ends>,
    /// `guest` or `host`.
    pub by: String,
    pub state: String,
    pub age: f64,
    pub idle: f64,
    pub bytes_from_guest: u64,
    pub frames_from_guest: u64,
    pub bytes_to_guest: u64,
    pub frames_to_guest: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<f64>,
    pub resent: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// Of a socket of the host's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ends {
    pub local: String,
    pub peer: String,
}

/// As `--protocol` says.
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Echo => "icmp",
        Protocol::TcpSplice => "tcp-splice",
        Protocol::UdpSplice => "udp-splice",
    }
}

impl From<&View> for Flow {
    fn from(v: &View) -> Flow {
        let ends = |(local, peer): (Endpoint, Endpoint)| Ends { local: local.to_string(), peer: peer.to_string() };
        Flow {
            protocol: protocol_name(v.protocol).into(),
            guest: v.guest.to_string(),
            remote: v.remote.to_string(),
            host: v.host.map(ends),
            by: if v.by_guest { "guest" } else { "host" }.into(),
            state: v.state.into(),
            age: v.age.as_secs_f64(),
            idle: v.idle.as_secs_f64(),
            bytes_from_guest: v.traffic.from_guest.bytes,
            frames_from_guest: v.traffic.from_guest.frames,
            bytes_to_guest: v.traffic.to_guest.bytes,
            frames_to_guest: v.traffic.to_guest.frames,
            rtt: v.rtt.map(|d| d.as_secs_f64()),
            resent: v.resent,
            waits_for: v.waits_for.map(Into::into),
        }
    }
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    pub id: u64,
    pub option: ForwardOption,
    /// A specification of just this.
    pub spec: String,
    /// The option or request it came from.
    pub origin: String,
    /// Ports that listen now.
    pub open: usize,
    /// Ports that should listen and cannot.
    pub refused: Vec<u16>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bind_errors: Vec<BindErrors>,
    /// Connections, or clients of UDP, so far.
    pub hits: u64,
    /// Payload of theirs.
    #[serde(default)]
    pub bytes_to_guest: u64,
    #[serde(default)]
    pub bytes_from_guest: u64,
}

/// Ports that have one reason in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindErrors {
    /// Numbers and ranges, with commas.
    pub ports: String,
    /// The kernel's.
    pub message: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forwards {
    pub forwards: Vec<Forward>,
}

/// Why not, in a sentence; and, of several things asked for, which of them are to blame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: i32,
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<Blame>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// Counted from 0.
    pub index: usize,
    pub message: String,
}

/// Codes of JSON-RPC 2.0, §5.1.
pub const PARSE_ERROR: i32 = -32700;
pub const INVALID_REQUEST: i32 = -32600;
pub const UNKNOWN_METHOD: i32 = -32601;
pub const INVALID_PARAMS: i32 = -32602;
/// Ours: understood, and could not be done.
pub const FAILED: i32 = -32000;

impl Failure {
    pub fn new(code: i32, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), data: Vec::new() }
    }
}

/// A line without its end. The id goes back with the reply; `None`: the caller wants no reply (a notification).
pub fn read(line: &[u8]) -> (Option<Value>, Result<Request, Failure>) {
    let value: Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(e) => return (Some(Value::Null), Err(Failure::new(PARSE_ERROR, format!("this is no JSON: {e}")))),
    };
    let Value::Object(mut object) = value else {
        return (
            Some(Value::Null),
            Err(Failure::new(INVALID_REQUEST, "a request is an object, with 'method' and 'id'")),
        );
    };
    let id = object.remove("id");
    if id.as_ref().is_some_and(|id| !matches!(id, Value::Null | Value::Number(_) | Value::String(_))) {
        let failure = Failure::new(INVALID_REQUEST, "'id' is a number or a text");
        return (Some(Value::Null), Err(failure));
    }
    (id, request(object))
}

fn request(mut object: serde_json::Map<String, Value>) -> Result<Request, Failure> {
    let Some(Value::String(method)) = object.remove("method") else {
        return Err(Failure::new(INVALID_REQUEST, "'method' is missing, or is no text"));
    };
    let params = Params { method: &method, value: object.remove("params").unwrap_or_default() };
    let without = |params: Params<'_>, request| params.read::<Nothing>().map(|Nothing {}| request);
    match method.as_str() {
        "info" => without(params, Request::Info),
        "config.get" => without(params, Request::Config),
        "stats.get" => without(params, Request::Stats),
        "metrics.get" => without(params, Request::Metrics),
        "flows.list" => params.read().map(Request::Flows),
        "forward.list" => without(params, Request::Forwards),
        "forward.add" => params.read().map(Request::AddForwards),
        "forward.delete" => params.read().map(Request::DeleteForwards),
        "capture.list" => without(params, Request::Captures),
        "capture.start" => params.read().map(Request::StartCapture),
        "capture.stop" => params.read().map(Request::StopCaptures),
        "log.get" => without(params, Request::LogLevel),
        "log.set" => params.read().map(Request::SetLogLevel),
        "quit" => without(params, Request::Quit),
        _ => Err(Failure::new(UNKNOWN_METHOD, format!("there is no method '{method}'; 'doc/control.md' lists them"))),
    }
}

struct Params<'a> {
    method: &'a str,
    value: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Params<'_> {
    /// None at all are an empty object.
    fn read<T: serde::de::DeserializeOwned>(self) -> Result<T, Failure> {
        let value = if self.value.is_null() { Value::Object(serde_json::Map::new()) } else { self.value };
        let wrong = |e| Failure::new(INVALID_PARAMS, format!("'params' of '{}': {e}", self.method));
        serde_json::from_value(value).map_err(wrong)
    }
}

/// A line with its end.
pub fn write(id: &Value, outcome: Result<Value, Failure>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Reply<'a> {
        jsonrpc: &'static str,
        id: &'a Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    }
    let (result, error) = match outcome {
        Ok(value) => (Some(value), None),
        Err(failure) => (None, Some(failure)),
    };
    // Fails only for maps with keys that are no text.
    let mut line = serde_json::to_vec(&Reply { jsonrpc: "2.0", id, result, error }).unwrap_or_default();
    line.push(b'\n');
    line
}

/// As a value.
pub fn json(value: &impl serde::Serialize) -> Value {
    // Fails only for maps with keys that are no text.
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(line: &str) -> i32 {
        read(line.as_bytes()).1.unwrap_err().code
    }

    #[test]
    fn requests_are_understood() {
        let (id, request) = read(br#"{"jsonrpc":"2.0","id":7,"method":"info"}"#);
        assert!(matches!((id, request), (Some(id), Ok(Request::Info)) if id == 7));
        for params in ["", r#","params":{}"#, r#","params":null"#] {
            let line = format!(r#"{{"id":"a","method":"flows.list"{params}}}"#);
            assert!(matches!(read(line.as_bytes()), (Some(_), Ok(Request::Flows(_)))), "{line}");
        }
        let line = br#"{"id":1,"method":"forward.add","params":{"forwards":[{"option":"-t","spec":"8080:80"}]}}"#;
        let Ok(Request::AddForwards(rules)) = read(line).1 else { panic!() };
        assert_eq!(rules.forwards, [NewForward { option: ForwardOption::TcpToGuest, spec: "8080:80".into() }]);
        assert!(matches!(read(br#"{"method":"quit"}"#), (None, Ok(Request::Quit))), "a notification");
    }

    #[test]
    fn what_is_wrong_is_said_by_number() {
        for (line, code) in [
            ("", PARSE_ERROR),
            ("{", PARSE_ERROR),
            ("[]", INVALID_REQUEST),
            (r#"{"id":1}"#, INVALID_REQUEST),
            (r#"{"id":1,"method":5}"#, INVALID_REQUEST),
            (r#"{"id":[],"method":"info"}"#, INVALID_REQUEST),
            (r#"{"id":1,"method":"inform"}"#, UNKNOWN_METHOD),
            (r#"{"id":1,"method":"forward.add"}"#, INVALID_PARAMS),
            (r#"{"id":1,"method":"forward.add","params":{"forwards":[{"option":"-x","spec":""}]}}"#, INVALID_PARAMS),
            (r#"{"id":1,"method":"flows.list","params":{"prot":1}}"#, INVALID_PARAMS),
        ] {
            assert_eq!(failure(line), code, "{line}");
        }
    }

    #[test]
    fn replies_are_lines() {
        let line = write(&Value::from(3), Err(Failure::new(FAILED, "no\nway")));
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&value["id"], &value["error"]["message"]), (&Value::from(3), &Value::from("no\nway")));
    }
}
