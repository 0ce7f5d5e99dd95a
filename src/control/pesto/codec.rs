//! The bytes of a conversation, both ways. Pure: what is not there yet is `None`, what can never be right an error.

use crate::base::Addr;
use crate::fwd::ports::Rule;
use crate::fwd::{Proto, Side};

/// The rules that lead from one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub id: u8,
    /// For people.
    pub name: String,
    pub abilities: Abilities,
    /// In the order they are in force.
    pub rules: Vec<Rule>,
}

/// The rules that a table is to have from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub id: u8,
    pub rules: Vec<Rule>,
}

bitflags::bitflags! {
    /// What a table's rules may be. Bits that are unknown say nothing to us.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Abilities: u32 {
        const V4 = 1;
        const V6 = 2;
        const TCP = 4;
        const UDP = 8;
        /// Rules that follow the other side.
        const AUTO = 16;
        /// Rules that listen on one interface only.
        const DEVICES = 32;
    }
}

/// Not of this protocol, or of another version of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("it does not begin as the protocol of pesto does")]
    Magic,
    #[error("it speaks version {0} of the protocol of pesto, and only version {VERSION} is known here")]
    Version(u32),
    #[error("its names have {0} and {1} bytes, and {NAME_BYTES} and {DEVICE_BYTES} are known here")]
    Sizes(u32, u32),
    #[error("there are more than {TABLES_MAX} tables")]
    Tables,
    #[error("table {0} comes twice")]
    Twice(u8),
    #[error("there is no table {0}")]
    Unknown(u8),
    #[error("a table has {0} rules, and {RULES_MAX} are the most")]
    Rules(u32),
    #[error("a name has no end")]
    Name,
    #[error("rule {0} of table {1}: {2}")]
    Rule(usize, u8, String),
}

/// Of what listens on the host, and of what listens in the guest's namespace.
pub const HOST: u8 = 1;
pub const SPLICE: u8 = 3;

/// The table whose sockets listen on this side.
pub fn id_of(on: Side) -> u8 {
    match on {
        Side::Host => HOST,
        Side::Guest => SPLICE,
    }
}

pub fn name_of(on: Side) -> &'static str {
    match on {
        Side::Host => "HOST",
        Side::Guest => "SPLICE",
    }
}

pub fn side_of(id: u8) -> Option<Side> {
    [Side::Host, Side::Guest].into_iter().find(|side| id_of(*side) == id)
}

/// What the server says first.
///
/// # Errors
/// More than the protocol has room for.
pub fn hello(tables: &[Table]) -> Result<Vec<u8>, Wrong> {
    let mut out = MAGIC.to_vec();
    [VERSION, NAME_BYTES as u32, DEVICE_BYTES as u32].iter().for_each(|n| out.extend(n.to_be_bytes()));
    for table in tables {
        out.push(table.id);
        padded(&mut out, &table.name, NAME_BYTES)?;
        out.extend(table.abilities.bits().to_be_bytes());
        rules(&mut out, &table.rules)?;
    }
    out.push(END);
    Ok(out)
}

/// What the server said first. `None`: there is more to come.
///
/// # Errors
/// It is not of this protocol.
pub fn read_hello(bytes: &[u8]) -> Result<Option<Vec<Table>>, Wrong> {
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        return Err(Wrong::Magic);
    }
    let mut left = &bytes[seen..];
    let (Some(version), Some(name), Some(device)) = (number(&mut left), number(&mut left), number(&mut left)) else {
        return Ok(None);
    };
    if version != VERSION {
        return Err(Wrong::Version(version));
    }
    if (name, device) != (NAME_BYTES as u32, DEVICE_BYTES as u32) {
        return Err(Wrong::Sizes(name, device));
    }
    let mut heads = Vec::new();
    let mut parts = Vec::new();
    loop {
        let Some(id) = take(&mut left, 1).map(|b| b[0]) else { return Ok(None) };
        if id == END {
            break;
        }
        admit(&parts, id)?;
        let (Some(name), Some(abilities)) = (take(&mut left, NAME_BYTES), number(&mut left)) else { return Ok(None) };
        let Some(raw) = raw_rules(&mut left)? else { return Ok(None) };
        heads.push((text(name)?, Abilities::from_bits_retain(abilities)));
        parts.push((id, raw));
    }
    let tables = heads.into_iter().zip(updates(&parts)?);
    Ok(Some(tables.map(|((name, abilities), Update { id, rules })| Table { id, name, abilities, rules }).collect()))
}

/// What the client says: every table as it is to be.
///
/// # Errors
/// More than the protocol has room for.
pub fn update(tables: &[Table]) -> Result<Vec<u8>, Wrong> {
    let mut out = Vec::new();
    for table in tables {
        out.push(table.id);
        rules(&mut out, &table.rules)?;
    }
    out.push(END);
    Ok(out)
}

/// What the client said. `None`: there is more to come. What comes behind it is not looked at.
///
/// # Errors
/// It is not of this protocol.
pub fn read_update(bytes: &[u8]) -> Result<Option<Vec<Update>>, Wrong> {
    let mut left = bytes;
    let mut parts = Vec::new();
    loop {
        let Some(id) = take(&mut left, 1).map(|b| b[0]) else { return Ok(None) };
        if id == END {
            // Not before all is there: whoever sends byte by byte has each looked at once.
            return updates(&parts).map(Some);
        }
        admit(&parts, id)?;
        let Some(raw) = raw_rules(&mut left)? else { return Ok(None) };
        parts.push((id, raw));
    }
}

/// What a server of ours says last. The protocol knows no answer, and clients of others do not wait for one.
pub fn answer(outcome: &Result<(), String>) -> Vec<u8> {
    let why = outcome.as_ref().err().map_or("", String::as_str);
    let mut len = why.len().min(ANSWER_BYTES_MAX);
    while !why.is_char_boundary(len) {
        len -= 1;
    }
    [&ANSWER_MAGIC[..], &(len as u32).to_be_bytes(), &why.as_bytes()[..len]].concat()
}

/// What a server has said last, as a whole: why it has refused the update. `None`: it does not answer, as others do not.
pub fn read_answer(bytes: &[u8]) -> Option<Result<(), String>> {
    let mut left = bytes.strip_prefix(&ANSWER_MAGIC)?;
    let len = number(&mut left)? as usize;
    let why = take(&mut left, len)?;
    Some(if why.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(why).into_owned()) })
}

/// All that one side may say at once.
pub const MESSAGE_BYTES_MAX: usize =
    MAGIC.len() + 12 + TABLES_MAX * (1 + NAME_BYTES + 8) + TABLES_MAX * RULES_MAX * RULE_BYTES + 1;
/// pesto itself knows 255 in all.
pub const RULES_MAX: usize = 1024;
pub const ANSWER_BYTES_MAX: usize = 2048;

const MAGIC: [u8; 8] = *b"basil:s\0";
const ANSWER_MAGIC: [u8; 8] = *b"spelt:a\0";
const VERSION: u32 = 2;
const NAME_BYTES: usize = 128;
/// IFNAMSIZ of linux/if.h.
const DEVICE_BYTES: usize = 16;
const RULE_BYTES: usize = 56;
const TABLES_MAX: usize = 8;
/// Where the next table's id would be.
const END: u8 = 0;

const DUAL_STACK: u8 = 1;
const BEST_EFFORT: u8 = 2;
const AUTO: u8 = 4;

const TCP: u8 = 6;
const UDP: u8 = 17;

fn rules(out: &mut Vec<u8>, rules: &[Rule]) -> Result<(), Wrong> {
    let count = rules.len().min(u32::MAX as usize) as u32;
    if rules.len() > RULES_MAX {
        return Err(Wrong::Rules(count));
    }
    out.extend(count.to_be_bytes());
    for rule in rules {
        out.extend(rule.listen.unwrap_or(Addr::V6_UNSPECIFIED).octets());
        out.extend(rule.target.unwrap_or(Addr::V6_UNSPECIFIED).octets());
        padded(out, rule.device.as_deref().unwrap_or_default(), DEVICE_BYTES)?;
        [rule.first, rule.last, rule.target_first].iter().for_each(|n| out.extend(n.to_be_bytes()));
        out.push(match rule.proto {
            Proto::Tcp => TCP,
            Proto::Udp => UDP,
        });
        let flags = [(rule.listen.is_none(), DUAL_STACK), (rule.best_effort, BEST_EFFORT), (rule.auto, AUTO)];
        out.push(flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum());
    }
    Ok(())
}

fn padded(out: &mut Vec<u8>, text: &str, room: usize) -> Result<(), Wrong> {
    if text.len() >= room {
        return Err(Wrong::Name);
    }
    out.extend(text.bytes().chain(std::iter::repeat(0)).take(room));
    Ok(())
}

fn take<'a>(left: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = left.split_at_checked(len)?;
    *left = rest;
    Some(taken)
}

fn number(left: &mut &[u8]) -> Option<u32> {
    take(left, 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes)
}

fn raw_rules<'a>(left: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Wrong> {
    let Some(count) = number(left) else { return Ok(None) };
    if count as usize > RULES_MAX {
        return Err(Wrong::Rules(count));
    }
    Ok(take(left, count as usize * RULE_BYTES))
}

fn admit(parts: &[(u8, &[u8])], id: u8) -> Result<(), Wrong> {
    if parts.len() >= TABLES_MAX {
        return Err(Wrong::Tables);
    }
    if parts.iter().any(|(other, _)| *other == id) { Err(Wrong::Twice(id)) } else { Ok(()) }
}

fn updates(parts: &[(u8, &[u8])]) -> Result<Vec<Update>, Wrong> {
    let update = |(id, raw): &(u8, &[u8])| {
        let rules = raw.chunks_exact(RULE_BYTES).enumerate();
        let rules = rules.map(|(n, raw)| rule(raw).map_err(|why| Wrong::Rule(n + 1, *id, why)));
        Ok(Update { id: *id, rules: rules.collect::<Result<_, _>>()? })
    };
    parts.iter().map(update).collect()
}

/// Up to the NUL.
fn text(padded: &[u8]) -> Result<String, Wrong> {
    let end = padded.iter().position(|b| *b == 0).ok_or(Wrong::Name)?;
    Ok(String::from_utf8_lossy(&padded[..end]).into_owned())
}

/// `raw`: of [`RULE_BYTES`].
fn rule(raw: &[u8]) -> Result<Rule, String> {
    let addr = |at: usize| -> Addr { Addr::v6(raw[at..at + 16].try_into().expect("16 bytes")) };
    let port = |at: usize| u16::from_be_bytes([raw[at], raw[at + 1]]);
    let (listen, target, flags) = (addr(0), addr(16), raw[55]);
    let device = text(&raw[32..48]).map_err(|_| "the name of its interface has no end".to_string())?;
    if flags & !(DUAL_STACK | BEST_EFFORT | AUTO) != 0 {
        return Err(format!("its flags {flags:#04x} are not all known here"));
    }
    if flags & DUAL_STACK != 0 && listen != Addr::V6_UNSPECIFIED {
        return Err(format!("it is to listen with both IP versions, and at {listen}"));
    }
    let rule = Rule {
        proto: match raw[54] {
            TCP => Proto::Tcp,
            UDP => Proto::Udp,
            other => return Err(format!("its protocol {other} is neither TCP nor UDP")),
        },
        listen: (flags & DUAL_STACK == 0).then_some(listen),
        device: Some(device).filter(|d| !d.is_empty()),
        first: port(48),
        last: port(50),
        target_first: port(52),
        target: Some(target).filter(|t| !t.is_unspecified()),
        best_effort: flags & BEST_EFFORT != 0,
        auto: flags & AUTO != 0,
    };
    rule.check()?;
    Ok(rule)
}

#[cfg(test)]
mod tests;
