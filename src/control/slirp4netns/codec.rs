//! Bytes to requests, and answers to bytes: the API of slirp4netns (its manual page, "API SOCKET"). Pure.
//!
//! Answers begin as that program's do, byte for byte, where it says only "bad"; the reason follows. Its manual and its
//! behaviour differ about `list_hostfwd`: the list is in `return` or stands alone. Here it is in both places.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Deserializer, Value};

use crate::base::{Addr, Family, PerFamily};
use crate::fwd::Proto;
use crate::fwd::ports::Rule;

/// A request has fewer bytes.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// Whose ports are asked for: the address for requests that name none. `None`: the family is switched off.
pub type Guest = PerFamily<Option<Addr>>;

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Add(Rule),
    Remove(u64),
    List,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Added(u64),
    Removed,
    List(Vec<(u64, Rule)>),
    /// What is wrong with the request.
    Error(String),
}

/// Reads a request from what has come so far; `ended`: no more will. What follows the first JSON value does not count.
/// `None`: not complete yet.
pub fn decode(bytes: &[u8], ended: bool, guest: &Guest) -> Option<Result<Request, String>> {
    if bytes.len() >= REQUEST_BYTES_MAX {
        return Some(Err("too large message".into()));
    }
    match Deserializer::from_slice(bytes).into_iter::<Value>().next() {
        Some(Ok(value)) => Some(request(&value, guest)),
        Some(Err(e)) if !e.is_eof() || ended => Some(Err(format!("cannot parse JSON: {e}"))),
        None if ended => Some(Err("cannot parse JSON: the request is empty".into())),
        Some(Err(_)) | None => None,
    }
}

impl Response {
    pub fn encode(&self) -> Vec<u8> {
        let json = match self {
            Response::Added(id) => serde_json::to_vec(&Return { value: Id { id: *id } }),
            Response::Removed => serde_json::to_vec(&Return { value: Nothing {} }),
            Response::List(all) => {
                let entries: Vec<Entry> = all.iter().map(|(id, rule)| Entry::of(*id, rule)).collect();
                serde_json::to_vec(&Listed { value: Entries { entries: &entries }, entries: &entries })
            }
            Response::Error(what) => {
                serde_json::to_vec(&Failed { error: Error { desc: format!("bad request: {what}") } })
            }
        };
        // None of these has what JSON cannot say.
        json.unwrap_or_default()
    }
}

fn request(value: &Value, guest: &Guest) -> Result<Request, String> {
    let object = value.as_object().ok_or("json_object() failed: the request is not an object")?;
    let execute = object.get("execute").and_then(Value::as_str);
    let none = Value::Null;
    let arguments = object.get("arguments").unwrap_or(&none);
    match execute.ok_or("no execute found: give \"execute\": \"list_hostfwd\", for example")? {
        "add_hostfwd" => add(arguments, guest).map(Request::Add).map_err(|e| format!("add_hostfwd: bad arguments.{e}")),
        "remove_hostfwd" => {
            let id = arguments.get("id").and_then(Value::as_u64);
            id.map(Request::Remove).ok_or_else(|| "remove_hostfwd: bad arguments.id: give the id of an entry".into())
        }
        "list_hostfwd" => Ok(Request::List),
        _ => Err("unknown execute: give add_hostfwd, remove_hostfwd or list_hostfwd".into()),
    }
}

/// The error begins with the argument's name.
fn add(arguments: &Value, guest: &Guest) -> Result<Rule, String> {
    let (proto, family) = match arguments.get("proto").and_then(Value::as_str) {
        Some("tcp") => (Proto::Tcp, None),
        Some("udp") => (Proto::Udp, None),
        Some("tcp4") => (Proto::Tcp, Some(Family::V4)),
        Some("udp4") => (Proto::Udp, Some(Family::V4)),
        Some("tcp6") => (Proto::Tcp, Some(Family::V6)),
        Some("udp6") => (Proto::Udp, Some(Family::V6)),
        _ => return Err("proto: give tcp or udp".into()),
    };
    let listen = match address(arguments, "host_addr")? {
        Some(a) => a,
        None => Addr::unspecified(family.unwrap_or(Family::V4)),
    };
    let of_family = listen.family();
    if family.is_some_and(|f| f != of_family) {
        return Err("host_addr: it is of another IP version than the proto".into());
    }
    if !listen.is_unicast() && !listen.is_unspecified() {
        return Err("host_addr: it is not an address of one host".into());
    }
    let default = guest[of_family].ok_or("host_addr: IPv6 is switched off, see the option --enable-ipv6")?;
    let target = address(arguments, "guest_addr")?.filter(|a| !a.is_unspecified()).unwrap_or(default);
    if target.family() != of_family {
        return Err("guest_addr: it is of another IP version than host_addr".into());
    }
    if !target.is_unicast() || target.is_loopback() {
        return Err("guest_addr: it is not an address of the guest".into());
    }
    let (first, target_first) = (port(arguments, "host_port")?, port(arguments, "guest_port")?);
    Ok(Rule {
        proto,
        listen: Some(listen),
        device: None,
        first,
        last: first,
        target_first,
        target: Some(target),
        best_effort: false,
        auto: false,
    })
}

/// Absent, null and empty are all "not given".
fn address(arguments: &Value, name: &str) -> Result<Option<Addr>, String> {
    match arguments.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => {
            let ip: IpAddr = text.parse().map_err(|_| format!("{name}: give an IP address"))?;
            Ok(Some(ip.into()))
        }
        Some(_) => Err(format!("{name}: give an IP address as a string")),
    }
}

fn port(arguments: &Value, name: &str) -> Result<u16, String> {
    let given = arguments.get(name);
    // Some languages know but one kind of number.
    let whole = |f: f64| if f.fract() == 0.0 && (0.0..65536.0).contains(&f) { Some(f as u64) } else { None };
    let number = given.and_then(|v| v.as_u64().or_else(|| v.as_f64().and_then(whole)));
    let port = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    port.ok_or_else(|| format!("{name}: give a number from 1 to 65535"))
}

#[derive(Serialize)]
struct Return<T> {
    #[serde(rename = "return")]
    value: T,
}

#[derive(Serialize)]
struct Listed<'a> {
    #[serde(rename = "return")]
    value: Entries<'a>,
    entries: &'a [Entry],
}

#[derive(Serialize)]
struct Id {
    id: u64,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Entries<'a> {
    entries: &'a [Entry],
}

/// In the order in which callers are used to see it.
#[derive(Serialize)]
struct Entry {
    id: u64,
    proto: &'static str,
    host_addr: String,
    host_port: u16,
    guest_addr: String,
    guest_port: u16,
}

impl Entry {
    fn of(id: u64, rule: &Rule) -> Entry {
        let proto = match rule.proto {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        };
        let text = |a: Option<Addr>| a.unwrap_or(Addr::unspecified(Family::V4)).to_string();
        Entry {
            id,
            proto,
            host_addr: text(rule.listen),
            host_port: rule.first,
            guest_addr: text(rule.target),
            guest_port: rule.target_first,
        }
    }
}

#[derive(Serialize)]
struct Failed {
    error: Error,
}

#[derive(Serialize)]
struct Error {
    desc: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn guest() -> Guest {
        PerFamily::new(Some(a("10.0.2.100")), Some(a("fd00::100")))
    }

    /// The rule as a specification, or what is wrong.
    fn added(arguments: &str) -> Result<String, String> {
        let text = format!(r#"{{"execute":"add_hostfwd","arguments":{arguments}}}"#);
        match decode(text.as_bytes(), true, &guest()).unwrap()? {
            Request::Add(rule) => Ok(format!("{:?} {rule}", rule.proto)),
            other => panic!("{other:?}"),
        }
    }

    fn wrong(bytes: &[u8]) -> String {
        decode(bytes, true, &guest()).unwrap().unwrap_err()
    }

    #[test]
    fn requests_to_add() {
        for (arguments, expected) in [
            (
                r#"{"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}"#,
                "Tcp 0.0.0.0/8080-8080:10.0.2.100/80-80",
            ),
            (r#"{"proto":"udp","host_port":53,"guest_port":5353}"#, "Udp 0.0.0.0/53-53:10.0.2.100/5353-5353"),
            (
                r#"{"proto":"tcp4","host_addr":"127.0.0.1","host_port":1.0,"guest_addr":"10.0.2.15","guest_port":65535}"#,
                "Tcp 127.0.0.1/1-1:10.0.2.15/65535-65535",
            ),
            (r#"{"proto":"udp6","host_port":1,"guest_port":2}"#, "Udp [::]/1-1:[fd00::100]/2-2"),
            (
                r#"{"proto":"tcp","host_addr":"::1","host_port":1,"guest_port":2,"extra":[]}"#,
                "Tcp [::1]/1-1:[fd00::100]/2-2",
            ),
            (
                r#"{"proto":"tcp","host_addr":"","host_port":1,"guest_addr":"0.0.0.0","guest_port":2}"#,
                "Tcp 0.0.0.0/1-1:10.0.2.100/2-2",
            ),
            (
                r#"{"proto":"tcp","host_addr":null,"host_port":1,"guest_addr":null,"guest_port":2}"#,
                "Tcp 0.0.0.0/1-1:10.0.2.100/2-2",
            ),
        ] {
            assert_eq!(added(arguments).as_deref(), Ok(expected), "{arguments}");
        }
    }

    #[test]
    fn faulty_requests_to_add() {
        for (arguments, expected) in [
            ("null", "proto"),
            ("[]", "proto"),
            (r#"{"host_port":1,"guest_port":2}"#, "proto"),
            (r#"{"proto":"sctp","host_port":1,"guest_port":2}"#, "proto"),
            (r#"{"proto":"tcp","guest_port":2}"#, "host_port"),
            (r#"{"proto":"tcp","host_port":0,"guest_port":2}"#, "host_port"),
            (r#"{"proto":"tcp","host_port":70000,"guest_port":2}"#, "host_port"),
            (r#"{"proto":"tcp","host_port":-1,"guest_port":2}"#, "host_port"),
            (r#"{"proto":"tcp","host_port":1.5,"guest_port":2}"#, "host_port"),
            (r#"{"proto":"tcp","host_port":"1","guest_port":2}"#, "host_port"),
            (r#"{"proto":"tcp","host_port":1}"#, "guest_port"),
            (r#"{"proto":"tcp","host_addr":"localhost","host_port":1,"guest_port":2}"#, "host_addr"),
            (r#"{"proto":"tcp","host_addr":5,"host_port":1,"guest_port":2}"#, "host_addr"),
            (r#"{"proto":"tcp","host_addr":"224.0.0.1","host_port":1,"guest_port":2}"#, "host_addr"),
            (r#"{"proto":"tcp4","host_addr":"::1","host_port":1,"guest_port":2}"#, "host_addr"),
            (r#"{"proto":"tcp","host_port":1,"guest_addr":"fd00::1","guest_port":2}"#, "guest_addr"),
            (r#"{"proto":"tcp","host_port":1,"guest_addr":"127.0.0.1","guest_port":2}"#, "guest_addr"),
            (r#"{"proto":"tcp","host_port":1,"guest_addr":"x","guest_port":2}"#, "guest_addr"),
        ] {
            let error = added(arguments).unwrap_err();
            assert!(error.starts_with(&format!("add_hostfwd: bad arguments.{expected}: ")), "{arguments}: {error}");
        }
        let only_v4 = PerFamily::new(Some(a("10.0.2.100")), None);
        let text = br#"{"execute":"add_hostfwd","arguments":{"proto":"tcp6","host_port":1,"guest_port":2}}"#;
        let error = decode(text, true, &only_v4).unwrap().unwrap_err();
        assert_eq!(error, "add_hostfwd: bad arguments.host_addr: IPv6 is switched off, see the option --enable-ipv6");
    }

    #[test]
    fn other_requests() {
        let of = |text: &str| decode(text.as_bytes(), false, &guest()).unwrap();
        assert_eq!(of(r#"{"execute":"list_hostfwd"}"#), Ok(Request::List));
        assert_eq!(of(r#"{"execute":"list_hostfwd","arguments":{"a":1}} trailing"#), Ok(Request::List));
        assert_eq!(of("\n{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":42}}\n"), Ok(Request::Remove(42)));
        for arguments in ["{}", "null", r#"{"id":"2"}"#, r#"{"id":-1}"#] {
            let error = of(&format!(r#"{{"execute":"remove_hostfwd","arguments":{arguments}}}"#)).unwrap_err();
            assert!(error.starts_with("remove_hostfwd: bad arguments.id: "), "{error}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_apart() {
        for (text, expected) in [
            ("", "cannot parse JSON"),
            ("  \n", "cannot parse JSON"),
            ("{", "cannot parse JSON"),
            ("nonsense", "cannot parse JSON"),
            ("[]", "json_object() failed"),
            ("null", "json_object() failed"),
            ("\"x\"", "json_object() failed"),
            ("{}", "no execute found"),
            (r#"{"execute":5}"#, "no execute found"),
            (r#"{"execute":"nope"}"#, "unknown execute"),
            (r#"{"execute":"LIST_HOSTFWD"}"#, "unknown execute"),
        ] {
            let error = wrong(text.as_bytes());
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        assert!(wrong(b"\xff\xfe").starts_with("cannot parse JSON"));
        assert!(wrong("[".repeat(4000).as_bytes()).starts_with("cannot parse JSON"));
    }

    #[test]
    fn a_request_is_awaited_until_it_is_complete_or_cannot_become_so() {
        let text = br#"{"execute":"list_hostfwd"}"#;
        for end in 0..text.len() {
            assert_eq!(decode(&text[..end], false, &guest()), None, "{end}");
        }
        assert_eq!(decode(text, false, &guest()), Some(Ok(Request::List)));
        assert!(decode(b"}", false, &guest()).unwrap().is_err());
    }

    #[test]
    fn a_request_is_shorter_than_its_limit() {
        let padded = |n: usize| format!("{:<n$}", r#"{"execute":"list_hostfwd"}"#);
        assert_eq!(decode(padded(REQUEST_BYTES_MAX - 1).as_bytes(), true, &guest()), Some(Ok(Request::List)));
        assert_eq!(wrong(padded(REQUEST_BYTES_MAX).as_bytes()), "too large message");
    }

    #[test]
    fn answers_byte_for_byte() {
        let text = |r: Response| String::from_utf8(r.encode()).unwrap();
        assert_eq!(text(Response::Added(42)), r#"{"return":{"id":42}}"#);
        assert_eq!(text(Response::Removed), r#"{"return":{}}"#);
        assert_eq!(
            text(Response::Error("unknown execute".into())),
            r#"{"error":{"desc":"bad request: unknown execute"}}"#
        );
        let Some(Ok(Request::Add(rule))) = decode(
            br#"{"execute":"add_hostfwd","arguments":{"proto":"udp","host_port":8080,"guest_port":80}}"#,
            true,
            &guest(),
        ) else {
            panic!()
        };
        let entry = r#"{"id":7,"proto":"udp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}"#;
        let expected = format!(r#"{{"return":{{"entries":[{entry}]}},"entries":[{entry}]}}"#);
        assert_eq!(text(Response::List(vec![(7, rule)])), expected);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), ended: bool) {
            let decoded = decode(&bytes, ended, &guest());
            prop_assert!(decoded.is_some() || !ended);
        }

        #[test]
        fn any_port_is_kept(host in 1u16.., inner in 1u16..) {
            let arguments = format!(r#"{{"proto":"tcp","host_port":{host},"guest_port":{inner}}}"#);
            prop_assert_eq!(added(&arguments), Ok(format!("Tcp 0.0.0.0/{host}-{host}:10.0.2.100/{inner}-{inner}")));
        }
    }
}
