//! Requests and replies about captures: what is asked for, in words, and what it is checked to be. Pure.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::protocol::{Failure, INVALID_PARAMS};
use crate::base::{Addr, Endpoint};
use crate::link::recording::{Counts, Pick, Protocol, Recording};

/// Which frames, how much of each, how many bytes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureOptions {
    /// `tcp`, `udp`, `icmp` or `arp`.
    pub protocol: Option<String>,
    /// At either end.
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    /// Both ends of a flow, in either order.
    pub flow: Option<[SocketAddr; 2]>,
    /// Bytes of each frame.
    pub snaplen: Option<u32>,
    /// Bytes of all.
    pub limit: Option<u64>,
}

/// What captures are to end; none named: all.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stopped {
    pub ids: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    pub id: u64,
    /// Frames that are recorded, and their bytes.
    pub frames: u64,
    pub bytes: u64,
    /// Frames that could not be.
    pub lost: u64,
    /// It has ended.
    #[serde(default)]
    pub complete: bool,
    /// As they were given.
    pub options: CaptureOptions,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Captures {
    pub captures: Vec<Capture>,
}

/// The least that holds more than the beginning and the end.
pub const LIMIT_MIN: u64 = 4096;

impl CaptureOptions {
    /// # Errors
    /// What makes no sense.
    pub fn pick(&self) -> Result<Pick, Failure> {
        let wrong = |text: String| Err(Failure::new(INVALID_PARAMS, text));
        let protocol = match self.protocol.as_deref() {
            None => None,
            Some("tcp") => Some(Protocol::Tcp),
            Some("udp") => Some(Protocol::Udp),
            Some("icmp") => Some(Protocol::Icmp),
            Some("arp") => Some(Protocol::Arp),
            Some(other) => return wrong(format!("the protocol '{other}' is none of tcp, udp, icmp, arp")),
        };
        let ports = self.port.is_some() || self.flow.is_some();
        if protocol == Some(Protocol::Arp) && (ports || self.address.is_some()) {
            return wrong("ARP cannot be chosen by address or port: leave those out".into());
        }
        if self.snaplen == Some(0) {
            return wrong("of each frame at least 1 byte is kept: give 'snaplen' so, or leave it out for all".into());
        }
        if let Some(limit) = self.limit.filter(|limit| *limit < LIMIT_MIN) {
            return wrong(format!("a limit of {limit} bytes holds nothing: give {LIMIT_MIN} at least"));
        }
        let end = |end: SocketAddr| Endpoint::from(end);
        let flow = self.flow.map(|[a, b]| (end(a), end(b)));
        Ok(Pick { protocol, address: self.address.map(Addr::from), port: self.port, flow })
    }
}

impl Capture {
    pub fn of(recording: &Recording, options: &CaptureOptions) -> Capture {
        let Counts { frames, bytes, lost } = recording.counts();
        Capture { id: recording.id, frames, bytes, lost, complete: recording.is_over(), options: options.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(json: &str) -> Result<Pick, String> {
        serde_json::from_str::<CaptureOptions>(json).map_err(|e| e.to_string())?.pick().map_err(|f| f.message)
    }

    #[test]
    fn options_make_a_filter() {
        assert_eq!(pick("{}"), Ok(Pick::default()));
        let flow = pick(r#"{"protocol":"tcp","port":443,"flow":["10.0.2.15:4000","[::1]:443"]}"#).unwrap();
        assert_eq!((flow.protocol, flow.port), (Some(Protocol::Tcp), Some(443)));
        assert_eq!(flow.flow.unwrap().0, Endpoint::new(Addr::v4([10, 0, 2, 15]), 4000));
        for (json, part) in [
            (r#"{"protocol":"sctp"}"#, "none of tcp"),
            (r#"{"protocol":"arp","port":1}"#, "ARP"),
            (r#"{"snaplen":0}"#, "1 byte"),
            (r#"{"limit":100}"#, "4096"),
            (r#"{"flow":["10.0.2.15:4000"]}"#, "length"),
            (r#"{"hosts":1}"#, "unknown field"),
        ] {
            let message = pick(json).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
