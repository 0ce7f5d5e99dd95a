//! The text form of port specifications; [`Spec::parse`] has the grammar.

use std::net::{IpAddr, Ipv6Addr};

use super::range::Range;
use super::{Bracketed, Spec};
use crate::base::Addr;
use crate::fwd::Proto;

/// Ports to forward, before exclusions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Ports { from: Range, to_first: u16, target: Option<Addr> },
    All { target: Option<Addr> },
}

impl Entry {
    /// Listening range, what to add (wrapping) for the target port, target address.
    pub fn span(&self) -> (Range, u16, Option<Addr>) {
        match self {
            Entry::Ports { from, to_first, target } => (*from, to_first.wrapping_sub(from.first), *target),
            Entry::All { target } => (Range::ALL, 0, *target),
        }
    }
}

pub(super) fn parse(proto: Proto, text: &str) -> Result<Spec, String> {
    let ((listen, device), entries) = split_listen(text)?;
    let mut spec =
        Spec { proto, listen, device, entries: Vec::new(), excluded: Vec::new(), auto: false, text: text.into() };
    if entries.is_empty() {
        return Err("it names no port".into());
    }
    for entry in entries.split(',') {
        match entry.strip_prefix('~') {
            _ if entry.is_empty() => return Err("there is nothing before or after a comma".into()),
            _ if entry == "auto" => spec.auto = true,
            _ if entry == "none" => return Err("'none' stands alone, as the first specification of its kind".into()),
            Some(range) => spec.excluded.push(parse_range(range)?),
            None => spec.entries.push(parse_entry(entry)?),
        }
    }
    Ok(spec)
}

/// Address and interface.
type Listen = (Option<Addr>, Option<String>);

/// Where to listen, and the rest. A slash can also belong to a target (`80:192.0.2.1/8080`): what is
/// before the first one counts as a listening address only if it reads as one.
fn split_listen(text: &str) -> Result<(Listen, &str), String> {
    let Some((before, entries)) = text.split_once('/') else { return Ok(((None, None), text)) };
    let (addr, device) = match before.split_once('%') {
        Some((addr, device)) => (addr, Some(device)),
        None => (before, None),
    };
    let listen = match addr {
        "*" | "" => None,
        _ => match parse_addr(addr) {
            Some(a) => Some(a),
            None if starts_like_ports(before) => return Ok(((None, None), text)),
            None => return Err(format!("'{addr}' is not an IPv4 or IPv6 address to listen on")),
        },
    };
    if let Some(d) = device
        && !is_interface_name(d)
    {
        return Err(format!("'{d}' is not an interface name of 1 to 15 bytes"));
    }
    Ok(((listen, device.map(str::to_string)), entries))
}

fn parse_entry(text: &str) -> Result<Entry, String> {
    let (from, target) = match text.split_once(':') {
        Some((from, target)) => (from, Some(target)),
        None => (text, None),
    };
    if from == "all" {
        let target = target.map(parse_target_addr).transpose()?.flatten();
        return Ok(Entry::All { target });
    }
    if from.bytes().all(|b| b.is_ascii_alphabetic()) && !from.is_empty() {
        return Err(format!("'{from}' is neither a port nor 'all', 'auto' or 'none'"));
    }
    let from = parse_range(from)?;
    let (to, target) = match target {
        None => (from, None),
        Some(t) => parse_target(t, from)?,
    };
    if to.last - to.first != from.last - from.first {
        return Err(format!(
            "ports {}-{} lead to {}-{}: both ranges need the same length",
            from.first, from.last, to.first, to.last
        ));
    }
    Ok(Entry::Ports { from, to_first: to.first, target })
}

fn parse_target(text: &str, from: Range) -> Result<(Range, Option<Addr>), String> {
    if let Some((addr, range)) = text.split_once('/') {
        if addr.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("write the IPv6 target address in brackets: '[{addr}]/{range}'"));
        }
        return Ok((parse_range(range)?, parse_target_addr(addr)?));
    }
    match parse_range(text) {
        Ok(range) => Ok((range, None)),
        Err(_) if text.contains(['.', ':', '[']) => Ok((from, parse_target_addr(text)?)),
        Err(e) => Err(e),
    }
}

/// The unspecified address means the same as none.
fn parse_target_addr(text: &str) -> Result<Option<Addr>, String> {
    let addr = parse_addr(text).ok_or_else(|| format!("'{text}' is not a target address or port"))?;
    if addr.is_multicast() || addr.is_limited_broadcast() {
        return Err(format!("target address {addr} is not the address of one host"));
    }
    Ok(Some(addr).filter(|a| !a.is_unspecified()))
}

/// A target address needs a listening address of its family: connections cannot change family on the way.
pub(super) fn check_target(target: Option<Addr>, listen: Option<Addr>) -> Result<(), String> {
    match (target, listen) {
        (None, _) => Ok(()),
        (Some(t), Some(l)) if t.family() == l.family() => Ok(()),
        (Some(t), Some(l)) => Err(format!("listening address {l} and target address {t} are not of one IP version")),
        (Some(t), None) => {
            let any = Addr::unspecified(t.family());
            Err(format!(
                "target address {t} needs a listening address of its IP version: begin with '{}/'",
                Bracketed(any)
            ))
        }
    }
}

fn parse_range(text: &str) -> Result<Range, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    if first > last {
        return Err(format!("range {first}-{last} ends before it begins"));
    }
    Ok(Range { first, last })
}

fn parse_port(text: &str) -> Result<u16, String> {
    // `str::parse` would take a sign as well.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(format!("'{text}' is not a port from 1 to 65535")),
    }
}

fn parse_addr(text: &str) -> Option<Addr> {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<IpAddr>().ok().map(Addr::from),
        None => text.parse::<IpAddr>().ok().map(Addr::from),
    }
}

/// `*/22`, `/22`: something to listen on, though it restricts nothing.
pub(super) fn names_no_port_first(text: &str) -> bool {
    text.split_once('/').is_some_and(|(before, _)| !starts_like_ports(before))
}

/// `22:...`, `22-80:...`, `all:...`: entries, not an address that is mistyped.
fn starts_like_ports(text: &str) -> bool {
    text.split(',').all(|e| {
        let head = e.split(':').next().unwrap_or(e);
        let head = head.strip_prefix('~').unwrap_or(head);
        head == "all" || head == "auto" || !head.is_empty() && head.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    })
}

/// What the kernel takes for the name of a network device, and what a `%` may be followed by.
pub(crate) fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control())
}
