//! Port forwarding rules: what to listen on, and where in the other namespace it leads.
//!
//! A command line gives *specifications* ([`Spec`], one for each `-t`, `-u`, `-T`, `-U`); sockets need *rules*
//! ([`Rule`], one contiguous range each). `all` and specifications of exclusions alone leave out the ephemeral ports,
//! which only the running kernel knows: [`Ports::rules`] therefore expands late, with that range as an argument.

mod grammar;
mod range;
mod set;

use std::fmt;
use std::ops::RangeInclusive;

use crate::base::{Addr, Family};
use crate::fwd::{Proto, Side};
use grammar::Entry;
pub(crate) use grammar::is_interface_name;
use range::Range;
pub use set::{Bound, PortSet};

/// One listening range and its target. Port ranges are inclusive; the target range is as long as the listening one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub proto: Proto,
    /// `None`: every address of both families, by one dual-stack socket. Unspecified: every address of that family.
    pub listen: Option<Addr>,
    /// Listen on this interface only.
    pub device: Option<String>,
    pub first: u16,
    pub last: u16,
    pub target_first: u16,
    /// Address in the guest; `None`: whichever the guest uses.
    pub target: Option<Addr>,
    /// Ports that cannot be bound are skipped (from `all` and from exclusions only).
    pub best_effort: bool,
    /// Active only while the target port is bound in the target namespace.
    pub auto: bool,
}

impl Rule {
    pub fn target_last(&self) -> u16 {
        self.target_first + (self.last - self.first)
    }

    /// The port a listening port of this rule leads to.
    pub fn target_port(&self, port: u16) -> u16 {
        self.target_first + (port - self.first)
    }

    /// True if one port of both could not be told apart, or not be bound twice.
    pub fn conflicts(&self, other: &Rule) -> bool {
        self.proto == other.proto
            && self.first <= other.last
            && other.first <= self.last
            && listen_overlaps(self.listen, other.listen)
            && (self.device.is_none() || other.device.is_none() || self.device == other.device)
    }

    /// What no specification can say, and no socket could do.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), String> {
        let Rule { first, last, target_first, .. } = *self;
        if first == 0 || target_first == 0 {
            return Err("0 is not a port".into());
        }
        if first > last {
            return Err(format!("range {first}-{last} ends before it begins"));
        }
        if u32::from(target_first) + u32::from(last - first) > u32::from(u16::MAX) {
            return Err(format!("ports {first}-{last} lead to {target_first} and beyond 65535"));
        }
        if let Some(device) = &self.device
            && !is_interface_name(device)
        {
            return Err(format!("'{device}' is not an interface name of 1 to 15 bytes"));
        }
        for addr in [self.listen, self.target].into_iter().flatten() {
            if addr.is_multicast() || addr.is_limited_broadcast() {
                return Err(format!("{addr} is not the address of one host"));
            }
        }
        grammar::check_target(self.target, self.listen)
    }

    /// For the start-up summary: `TCP [*]%eth0:80  =>  8080`, `UDP [*]:1-9  =>  1-9  (best effort)`.
    pub fn summary(&self) -> String {
        let proto = proto_name(self.proto);
        let listen = self.listen.map_or_else(|| "*".to_string(), |a| a.to_string());
        let device = self.device.as_ref().map_or_else(String::new, |d| format!("%{d}"));
        let target = self.target.map_or_else(String::new, |a| format!("{}:", Bracketed(a)));
        let best_effort = if self.best_effort { " (best effort)" } else { "" };
        let auto = if self.auto { " (auto-scan)" } else { "" };
        let range = |first, last| if first == last { format!("{first}") } else { format!("{first}-{last}") };
        let (from, to) = (range(self.first, self.last), range(self.target_first, self.target_last()));
        format!("{proto} [{listen}]{device}:{from}  =>  {target}{to} {best_effort}{auto}").trim_end().to_string()
    }
}

/// As a specification that means just this rule (there is none for `best_effort`).
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(a) = self.listen {
            write!(f, "{}", Bracketed(a))?;
        }
        if let Some(d) = &self.device {
            write!(f, "%{d}")?;
        }
        if self.listen.is_some() || self.device.is_some() {
            f.write_str("/")?;
        }
        write!(f, "{}-{}:", self.first, self.last)?;
        if let Some(a) = self.target {
            write!(f, "{}/", Bracketed(a))?;
        }
        write!(f, "{}-{}", self.target_first, self.target_last())?;
        if self.auto { f.write_str(",auto") } else { Ok(()) }
    }
}

/// The forwarding of one protocol in one direction, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Nothing is forwarded: `none`.
    None,
    /// The default of the pasta command line, not asked for explicitly: whatever the target has bound.
    Auto,
    /// In the order given.
    Specs(Vec<Spec>),
}

impl Ports {
    /// What to take for the ephemeral range where the kernel's cannot be read (RFC 6335 section 6).
    pub const EPHEMERAL_DEFAULT: RangeInclusive<u16> = 49152..=65535;

    /// The default as a specification: nothing but `auto`. `only`: the one family in use.
    pub fn explicit(&self, proto: Proto, on: Side, only: Option<Family>) -> Ports {
        let Ports::Auto = self else { return self.clone() };
        let mut spec = Spec {
            proto,
            listen: None,
            device: (on == Side::Guest).then(|| "lo".to_string()),
            entries: Vec::new(),
            excluded: Vec::new(),
            auto: true,
            text: "auto".to_string(),
        };
        if let Some(family) = only {
            spec.limit(family);
        }
        Ports::Specs(vec![spec])
    }

    /// The rules to listen by, of a value that [`Ports::explicit`] has seen. `ephemeral` (`net.ipv4.ip_local_port_range`) is what `all` leaves out.
    ///
    /// # Errors
    /// One sentence about two specifications that conflict.
    pub fn rules(&self, ephemeral: &RangeInclusive<u16>) -> Result<Vec<Rule>, String> {
        let Ports::Specs(specs) = self else { return Ok(Vec::new()) };
        let mut owned: Vec<(usize, Rule)> = Vec::new();
        for (i, spec) in specs.iter().enumerate() {
            owned.extend(spec.rules(ephemeral).into_iter().map(|r| (i, r)));
        }
        if let Some((a, b, port)) = first_conflict(&owned) {
            let (earlier, later) = (&specs[a.min(b)].text, &specs[a.max(b)].text);
            return Err(if a == b {
                format!("port {port} occurs twice in '{later}': leave one of them out")
            } else {
                format!("'{later}' overlaps '{earlier}' in port {port}: leave it out of one of them")
            });
        }
        Ok(owned.into_iter().map(|(_, r)| r).collect())
    }

    /// The specification a rule came from, as the user wrote it, for messages about sockets that cannot be bound.
    pub fn origin(&self, rule: &Rule) -> Option<&str> {
        let Ports::Specs(specs) = self else { return None };
        specs.iter().find(|s| s.may_contain(rule)).map(|s| s.text.as_str())
    }

    /// True if every rule names its ports: neither `all`, nor `auto`, nor exclusions alone.
    pub fn is_exact(&self) -> bool {
        match self {
            Ports::None | Ports::Auto => true,
            Ports::Specs(specs) => specs.iter().all(Spec::is_exact),
        }
    }
}

/// One port specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    proto: Proto,
    listen: Option<Addr>,
    device: Option<String>,
    entries: Vec<Entry>,
    excluded: Vec<Range>,
    auto: bool,
    text: String,
}

impl Spec {
    /// Reads a specification other than `none`.
    ///
    /// ```text
    /// spec    := [ listen "/" ] entries
    /// listen  := [ addr ] [ "%" ifname ] | "*" [ "%" ifname ]        addr: with or without brackets
    /// entries := entry { "," entry }
    /// entry   := range [ ":" target ] | "~" range | "all" [ ":" toaddr ] | "auto"
    /// target  := range | toaddr | toaddr "/" range                    an IPv6 toaddr with ports needs brackets
    /// range   := port [ "-" port ]
    /// ```
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn parse(proto: Proto, text: &str) -> Result<Spec, String> {
        let spec = grammar::parse(proto, text)?;
        for entry in &spec.entries {
            grammar::check_target(entry.span().2, spec.listen)?;
        }
        Ok(spec)
    }

    /// For the direction guest to host, where listening is on the guest's loopback always.
    ///
    /// # Errors
    /// As [`Spec::parse`], and for an address or interface to listen on, or an address to lead to.
    pub fn parse_outbound(proto: Proto, text: &str) -> Result<Spec, String> {
        let mut spec = grammar::parse(proto, text)?;
        if spec.entries.iter().any(|e| e.span().2.is_some()) {
            return Err("these ports lead to the host's loopback: give no target address".into());
        }
        if spec.listen.is_some() || spec.device.is_some() || grammar::names_no_port_first(text) {
            return Err("these ports are listened to on the namespace's loopback: give no address or interface".into());
        }
        spec.device = Some("lo".into());
        Ok(spec)
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if it follows the ports in use on the other side.
    pub fn is_auto(&self) -> bool {
        self.auto
    }

    pub fn is_exact(&self) -> bool {
        !self.auto && !self.entries.is_empty() && self.entries.iter().all(|e| matches!(e, Entry::Ports { .. }))
    }

    /// Restricts a dual-stack specification to the only family in use. False if it listens on the other one.
    pub fn limit(&mut self, family: Family) -> bool {
        match self.listen {
            Some(a) => a.family() == family,
            None => {
                self.listen = Some(Addr::unspecified(family));
                true
            }
        }
    }

    fn rules(&self, ephemeral: &RangeInclusive<u16>) -> Vec<Rule> {
        let everything = [Entry::All { target: None }];
        let entries = if self.entries.is_empty() { &everything[..] } else { &self.entries };
        let mut rules = Vec::new();
        for entry in entries {
            let (range, shift, target) = entry.span();
            let best_effort = matches!(entry, Entry::All { .. });
            let mut holes = self.excluded.clone();
            if best_effort && !ephemeral.is_empty() {
                holes.push(Range { first: *ephemeral.start(), last: *ephemeral.end() });
            }
            rules.extend(range.without(&mut holes).into_iter().map(|r| Rule {
                proto: self.proto,
                listen: self.listen,
                device: self.device.clone(),
                first: r.first,
                last: r.last,
                // Both ends lie in 1..=65535 by the grammar, so wrapping undoes itself.
                target_first: r.first.wrapping_add(shift),
                target,
                best_effort,
                auto: self.auto,
            }));
        }
        rules
    }

    fn may_contain(&self, rule: &Rule) -> bool {
        let spans = |e: &Entry| {
            let (range, shift, target) = e.span();
            range.contains(rule.first)
                && rule.first.wrapping_add(shift) == rule.target_first
                && (target, matches!(e, Entry::All { .. })) == (rule.target, rule.best_effort)
        };
        (self.proto, self.listen, &self.device) == (rule.proto, rule.listen, &rule.device)
            && !self.excluded.iter().any(|x| x.contains(rule.first))
            && ((self.entries.is_empty() && rule.best_effort) || self.entries.iter().any(spans))
    }
}

/// Whether a socket bound to each could get the same packet, or the kernel would refuse the second.
fn listen_overlaps(a: Option<Addr>, b: Option<Addr>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b || a.family() == b.family() && (a.is_unspecified() || b.is_unspecified()),
        _ => true,
    }
}

/// Owners of two rules that conflict, and a port they share.
fn first_conflict(rules: &[(usize, Rule)]) -> Option<(usize, usize, u16)> {
    // Sorted by port, a rule can only meet those that begin before it ends: no comparison of all with all.
    let mut sorted: Vec<&(usize, Rule)> = rules.iter().collect();
    sorted.sort_by_key(|(_, r)| r.first);
    sorted.iter().enumerate().find_map(|(i, (owner, rule))| {
        let mut near = sorted[i + 1..].iter().take_while(|(_, other)| other.first <= rule.last);
        near.find(|(_, other)| rule.conflicts(other)).map(|(other_owner, other)| (*owner, *other_owner, other.first))
    })
}

fn proto_name(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "TCP",
        Proto::Udp => "UDP",
    }
}

/// An address as it stands before a port: IPv6 in brackets.
struct Bracketed(Addr);

impl fmt::Display for Bracketed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.family() {
            Family::V4 => write!(f, "{}", self.0),
            Family::V6 => write!(f, "[{}]", self.0),
        }
    }
}

#[cfg(test)]
mod tests;
