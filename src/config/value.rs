//! Option values: text to checked values. The errors are advice, to stand behind "Invalid THING 'VALUE' for option
//! 'NAME': ".

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use super::types::{Assign, Config, Id, LogFormat, RunAs, Target};
use crate::base::{Addr, Mac};
use crate::fwd::ports::is_interface_name;

type Parsed<T> = Result<T, String>;

pub(super) fn mtu(text: &str) -> Parsed<u16> {
    match number::<u16>(text) {
        Some(mtu) if mtu == 0 || (MTU_MIN..=MTU_MAX).contains(&mtu) => Ok(mtu),
        _ => Err(format!("give a number from {MTU_MIN} to {MTU_MAX}, or 0 to advertise none")),
    }
}

pub(super) fn log_size(text: &str) -> Parsed<u64> {
    let min = Config::LOG_SIZE_MIN;
    number(text).filter(|n| *n >= min).ok_or_else(|| format!("give a number of bytes, {min} or more"))
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("give 'text' or 'json'".into()),
    }
}

pub(super) fn seconds(text: &str) -> Parsed<u32> {
    number(text).filter(|n| *n > 0).ok_or_else(|| "give a number of seconds, 1 or more".into())
}

/// Queues of a link, or threads that serve them.
pub(super) fn queues(text: &str) -> Parsed<u8> {
    let max = Config::QUEUES_MAX;
    number(text).filter(|n| (1..=max).contains(n)).ok_or_else(|| format!("give a number from 1 to {max}"))
}

/// Address to assign: not loopback, and of one host.
pub(super) fn assign(text: &str) -> Parsed<Assign> {
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (text, None),
    };
    let addr = unicast(addr)?;
    let max = if addr.is_v4() { 32 } else { 128 };
    let prefix = match prefix {
        None => None,
        Some(p) => match number::<u8>(p) {
            Some(n) if n <= max => Some(n),
            _ => return Err(format!("give a prefix length from 0 to {max} after '/'")),
        },
    };
    Ok(Assign { addr, prefix })
}

/// IPv4 prefix length.
pub(super) fn netmask(text: &str) -> Parsed<u8> {
    if let Some(n) = number::<u8>(text).filter(|n| *n <= 32) {
        return Ok(n);
    }
    if let Ok(mask) = text.parse::<Ipv4Addr>().map(u32::from)
        && mask.leading_ones() + mask.trailing_zeros() >= 32
    {
        return Ok(mask.leading_ones() as u8);
    }
    Err("give a number of bits from 0 to 32, or a mask such as 255.255.255.0".into())
}

/// A station's address: `xx:xx:xx:xx:xx:xx`.
pub(super) fn mac(text: &str) -> Parsed<Mac> {
    let mut mac = Mac::ZERO;
    let mut parts = text.split(':');
    for octet in &mut mac.0 {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
        *octet = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or(MAC_ADVICE)?;
    }
    if parts.next().is_some() {
        return Err(MAC_ADVICE.into());
    }
    if !mac.is_unicast() {
        return Err("this is a group address or zero: give the address of one interface, its first octet even".into());
    }
    Ok(mac)
}

/// An address of one host, not loopback.
pub(super) fn unicast(text: &str) -> Parsed<Addr> {
    unicast_or_loopback(text).and_then(|a| {
        if a.is_loopback() {
            Err("a loopback address means another host to the guest: give another".into())
        } else {
            Ok(a)
        }
    })
}

/// An address of one host.
pub(super) fn unicast_or_loopback(text: &str) -> Parsed<Addr> {
    let addr: Addr = text.parse::<IpAddr>().map_err(|_| "give an IPv4 or IPv6 address")?.into();
    if addr.is_unicast() {
        Ok(addr)
    } else {
        Err("give an address of one host, not unspecified, multicast or broadcast".into())
    }
}

pub(super) fn interface(text: &str) -> Parsed<String> {
    if is_interface_name(text) { Ok(text.into()) } else { Err("give an interface name of 1 to 15 bytes".into()) }
}

/// The name of the interface to create.
pub(super) fn new_interface(text: &str) -> Parsed<String> {
    match text {
        "lo" => Err("that is the name of the loopback interface: give another".into()),
        _ => interface(text),
    }
}

/// A DNS name, returned without trailing dot. Underscores are in use, though RFC 1123 has none.
pub(super) fn domain(text: &str) -> Parsed<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if !(1..=NAME_MAX).contains(&name.len()) {
        return Err(format!("give a name of 1 to {NAME_MAX} bytes"));
    }
    // RFC 1035 section 2.3.4: the names are sent as labels of at most 63 octets.
    let label =
        |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !name.split('.').all(label) {
        return Err("give labels of 1 to 63 letters, digits and hyphens, separated by single dots".into());
    }
    Ok(name.into())
}

/// `UID`, `UID:GID`, `LOGIN`, `LOGIN:GROUP`.
pub(super) fn runas(text: &str) -> Parsed<RunAs> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    Ok(RunAs { user: id(user)?, group: group.map(id).transpose()? })
}

/// A file to create or open. Any bytes will do.
pub(super) fn path(value: &OsStr) -> Parsed<PathBuf> {
    if value.is_empty() { Err("give the path of a file".into()) } else { Ok(value.into()) }
}

/// A UNIX socket to make.
pub(super) fn socket_path(value: &OsStr) -> Parsed<PathBuf> {
    if value.len() > SOCKET_PATH_MAX {
        return Err(format!(
            "it has {} bytes, and the kernel takes {SOCKET_PATH_MAX}: give a shorter path",
            value.len()
        ));
    }
    path(value)
}

/// An inherited descriptor.
pub(super) fn descriptor(text: &str) -> Parsed<i32> {
    number(text).ok_or_else(|| "give the number of an open descriptor, which is not negative".into())
}

/// An inherited descriptor that is ours alone: no standard stream.
pub(super) fn own_descriptor(text: &str) -> Parsed<i32> {
    descriptor(text).ok().filter(|fd| *fd > 2).ok_or_else(|| "give the number of an open descriptor, 3 or more".into())
}

/// `PATH` with a slash, else the `NAME` of a file in `/run/netns`.
pub(super) fn namespace(value: &OsStr) -> Parsed<Target> {
    match value.to_str() {
        Some("" | "." | "..") => Err("give the path of a namespace file, or a name in /run/netns".into()),
        Some(name) if !name.contains('/') => Ok(Target::Name(name.into())),
        _ => Ok(Target::Path(value.into())),
    }
}

/// `None` if it is not made of digits.
pub(super) fn pid(value: &OsStr) -> Option<Parsed<i32>> {
    let text = value.to_str().filter(|t| is_digits(t))?;
    let pid = text.parse().ok().filter(|p| *p > 0);
    Some(pid.ok_or_else(|| format!("give the id of a process, from 1 to {}", i32::MAX)))
}

fn id(text: &str) -> Parsed<Id> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16).ok(),
            Some(_) => None,
            None if text.len() > 1 && text.starts_with('0') && is_digits(text) => u32::from_str_radix(text, 8).ok(),
            None => number(text),
        };
        // -1 means "unchanged" to setresuid(2).
        return parsed.filter(|n| *n != u32::MAX).map(Id::Number).ok_or_else(|| RUNAS_ADVICE.into());
    }
    if text.is_empty() || text.bytes().any(|b| b.is_ascii_whitespace() || b == b':') {
        return Err(RUNAS_ADVICE.into());
    }
    Ok(Id::Name(text.into()))
}

/// Digits only: `str::parse` would take a sign as well.
fn number<T: FromStr>(text: &str) -> Option<T> {
    if is_digits(text) { text.parse().ok() } else { None }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// What every IPv4 link has to carry (RFC 791 section 3.2).
pub(super) const MTU_MIN: u16 = 68;
/// The kernel's limit for a tap: a frame of 65535 bytes, less its Ethernet header.
pub(super) const MTU_MAX: u16 = 65521;
/// Room for a path in `struct sockaddr_un`, less a final zero.
const SOCKET_PATH_MAX: usize = 107;
/// RFC 1035 section 2.3.4, less the bytes of the encoding.
const NAME_MAX: usize = 253;
const MAC_ADVICE: &str = "give six octets of two hexadecimal digits, separated by colons";
const RUNAS_ADVICE: &str = "give UID, UID:GID, LOGIN or LOGIN:GROUP";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtus() {
        for (text, mtu_) in [("0", 0), ("68", 68), ("1500", 1500), ("65521", 65521)] {
            assert_eq!(mtu(text), Ok(mtu_));
        }
        for text in ["", "67", "65522", "70000", "-1", "+1500", "1500x", " 1500", "99999999999999999999"] {
            assert!(mtu(text).is_err(), "{text}");
        }
    }

    #[test]
    fn queue_counts() {
        assert_eq!([queues("1"), queues("8")], [Ok(1), Ok(8)]);
        for text in ["", "0", "9", "257", "+2", "-1", "2.5"] {
            assert!(queues(text).is_err(), "{text}");
        }
    }

    #[test]
    fn masks() {
        for (text, bits) in
            [("0", 0), ("24", 24), ("32", 32), ("255.255.255.0", 24), ("0.0.0.0", 0), ("255.255.255.255", 32)]
        {
            assert_eq!(netmask(text), Ok(bits), "{text}");
        }
        for text in ["", "33", "255.0.255.0", "0.0.0.255", "ffff::", "255.255.255", "/24", "24.0"] {
            assert!(netmask(text).is_err(), "{text}");
        }
    }

    #[test]
    fn macs() {
        assert_eq!(mac("9a:55:9A:55:00:ff"), Ok(Mac([0x9a, 0x55, 0x9a, 0x55, 0, 0xff])));
        let wrong = [
            "",
            "9a:55:9a:55:9a",
            "9a:55:9a:55:9a:55:00",
            "9a-55-9a-55-9a-55",
            "9:55:9a:55:9a:55",
            "+9:55:9a:55:9a:55",
        ];
        for text in wrong.into_iter().chain([
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "9a:55:9a:55:9a:5g",
        ]) {
            assert!(mac(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_to_assign() {
        let got = |t: &str| assign(t).map(|a| (a.addr.to_string(), a.prefix));
        assert_eq!(got("192.0.2.1"), Ok(("192.0.2.1".into(), None)));
        assert_eq!(got("192.0.2.1/24"), Ok(("192.0.2.1".into(), Some(24))));
        assert_eq!(got("2001:db8::1/64"), Ok(("2001:db8::1".into(), Some(64))));
        assert_eq!(got("::ffff:192.0.2.1"), Ok(("192.0.2.1".into(), None)));
        assert_eq!(got("fe80::1"), Ok(("fe80::1".into(), None)));
        let wrong =
            ["", "x", "0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "255.255.255.255", "192.0.2.1/33"];
        for text in
            wrong.into_iter().chain(["192.0.2.1/", "192.0.2.1/x", "fe80::1/129", "[fe80::1]", "::ffff:192.0.2.1/96"])
        {
            assert!(assign(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        for text in ["a", "example.org", "a_b.c-d", "none."] {
            assert_eq!(domain(text).as_deref(), Ok(text.trim_end_matches('.')));
        }
        assert!(domain(&format!("{}.{}", "a".repeat(63), "b".repeat(63))).is_ok());
        let long = vec!["a".repeat(50); 6].join(".");
        for text in ["", ".", "a..b", ".a", "a b", "é", &"a".repeat(64), &long] {
            assert!(domain(text).is_err(), "{text}");
        }
        assert!(domain(&long[..253]).is_ok());
    }

    #[test]
    fn users() {
        let name = |s: &str| Id::Name(s.into());
        assert_eq!(runas("1000"), Ok(RunAs { user: Id::Number(1000), group: None }));
        assert_eq!(runas("0x10:010"), Ok(RunAs { user: Id::Number(16), group: Some(Id::Number(8)) }));
        assert_eq!(runas("0"), Ok(RunAs { user: Id::Number(0), group: None }));
        assert_eq!(runas("nobody:nogroup"), Ok(RunAs { user: name("nobody"), group: Some(name("nogroup")) }));
        for text in ["", ":", "1000:", "1a", "08", "0x", "0x+1", "4294967295", "a b", "a:b:c"] {
            assert!(runas(text).is_err(), "{text}");
        }
    }

    #[test]
    fn interfaces() {
        for text in ["a", "eth0", "fifteen-bytes15", "br.1"] {
            assert!(interface(text).is_ok(), "{text}");
        }
        for text in ["", ".", "..", "sixteen-bytes-16", "a/b", "a b", "a:1"] {
            assert!(interface(text).is_err(), "{text}");
        }
        assert!(new_interface("lo").is_err());
    }

    #[test]
    fn namespaces() {
        let of = |t: &str| namespace(OsStr::new(t));
        assert_eq!(of("blue"), Ok(Target::Name("blue".into())));
        assert_eq!(of("./blue"), Ok(Target::Path("./blue".into())));
        assert_eq!(of("/proc/self/fd/0"), Ok(Target::Path("/proc/self/fd/0".into())));
        assert!(of("").is_err() && of("..").is_err());
        assert_eq!(pid(OsStr::new("12")), Some(Ok(12)));
        assert_eq!(pid(OsStr::new("12a")), None);
        assert!(pid(OsStr::new("0")).unwrap().is_err());
        assert!(pid(OsStr::new("2147483648")).unwrap().is_err());
    }
}
