//! DHCPv4 server with one lease (RFC 2131 §4.3). Stateless: the guest's address is the assigned one, whoever asks, so every
//! question is answered from the configuration alone. If that changes, whoever renews another address is refused.

use super::Config;
use super::config::Lifetimes;
use super::frames::send_udp;
use crate::base::{Addr, DropReason, Endpoint, Family, Mac};
use crate::guest::{Facts, ToGuest};
use crate::wire::dhcp::{self, BOOTREQUEST, FLAG_BROADCAST, Message, Reply, kind, mask, opt, option_len};
use crate::wire::name::{self, Names};
use crate::wire::{IPV4_LEN, Packet, UDP_LEN};

/// Answers the UDP payload of `packet`.
pub(super) fn answer(
    config: &Config,
    packet: &Packet,
    payload: &[u8],
    facts: &Facts<'_>,
    link: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let ask = dhcp::parse(payload).filter(|m| m.op == BOOTREQUEST).ok_or(DropReason::Dhcp)?;
    let lease = Lease::new(config).ok_or(DropReason::Disabled)?;
    let verdict = decide(&ask, &lease).ok_or(DropReason::Dhcp)?;
    let lease = match verdict {
        // Clients take a refusal only from the server that they have asked, under the address that it had then.
        Verdict::Nak if packet.dst.is_unicast() => Lease { ours: packet.dst, ..lease },
        _ => lease,
    };
    let dst = destination(&ask, verdict, &lease, packet);
    // RFC 2131 §4.1: to one station, unless it cannot take that yet.
    let mac = if dst.addr.is_limited_broadcast() { Mac::BROADCAST } else { packet.src_mac };
    let reply = reply(config, &ask, verdict, &lease, link.caps().mtu);
    log::debug!("DHCP: {} of {} to {}", verdict.name(), lease.guest, packet.src_mac);
    send_udp(Endpoint::new(lease.ours, dhcp::SERVER_PORT), dst, mac, &reply, facts, link)
}

struct Lease {
    ours: Addr,
    guest: Addr,
    len: u8,
}

impl Lease {
    fn new(config: &Config) -> Option<Lease> {
        config.dhcp_addresses().map(|(ours, guest, len)| Lease { ours, guest, len })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Offer,
    Ack,
    /// RFC 4039: an ACK at once.
    RapidAck,
    Nak,
    /// Settings for a client that has an address (RFC 2131 §4.3.5).
    Inform,
    /// For a client that knows no DHCP (RFC 1534 §2).
    Bootp,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Offer => "offer",
            Verdict::Ack => "lease",
            Verdict::RapidAck => "lease (rapid commit)",
            Verdict::Nak => "refusal instead",
            Verdict::Inform => "settings for the network",
            Verdict::Bootp => "lease (BOOTP)",
        }
    }

    fn message_type(self) -> Option<u8> {
        match self {
            Verdict::Offer => Some(kind::OFFER),
            Verdict::Ack | Verdict::RapidAck | Verdict::Inform => Some(kind::ACK),
            Verdict::Nak => Some(kind::NAK),
            Verdict::Bootp => None,
        }
    }

    fn leases(self) -> bool {
        !matches!(self, Verdict::Nak | Verdict::Inform)
    }
}

fn decide(ask: &Message<'_>, lease: &Lease) -> Option<Verdict> {
    if ask.option(opt::MESSAGE_TYPE).is_none() {
        return Some(Verdict::Bootp);
    }
    // RFC 2131 §4.3.2: a client that names another server has declined our offer.
    if ask.option(opt::SERVER_ID).is_some() && ask.option_addr(opt::SERVER_ID) != Some(lease.ours) {
        return None;
    }
    match ask.option_u8(opt::MESSAGE_TYPE)? {
        kind::DISCOVER if ask.option(opt::RAPID_COMMIT).is_some() => Some(Verdict::RapidAck),
        kind::DISCOVER => Some(Verdict::Offer),
        kind::REQUEST => {
            // Selecting and rebooting clients name the address in option 50, renewing and rebinding ones in ciaddr. With
            // one address to give we know when another is wrong (RFC 2131 §4.3.2: authoritative).
            let wanted = match ask.ciaddr {
                Addr::V4_UNSPECIFIED => ask.option_addr(opt::REQUESTED_ADDRESS)?,
                renewed => renewed,
            };
            Some(if wanted == lease.guest { Verdict::Ack } else { Verdict::Nak })
        }
        kind::INFORM => Some(Verdict::Inform),
        // DECLINE and RELEASE want no answer, and there is no state to change.
        _ => None,
    }
}

/// RFC 2131 §4.1.
fn destination(ask: &Message<'_>, verdict: Verdict, lease: &Lease, packet: &Packet) -> Endpoint {
    if ask.giaddr.is_unicast() {
        return Endpoint::new(ask.giaddr, dhcp::SERVER_PORT);
    }
    let to = match verdict {
        Verdict::Nak => BROADCAST,
        _ if ask.ciaddr.is_unicast() => ask.ciaddr,
        // §4.3.5 has the answer to INFORM go to ciaddr; some clients leave it out.
        Verdict::Inform if packet.src.is_unicast() => packet.src,
        Verdict::Inform => BROADCAST,
        _ if ask.flags & FLAG_BROADCAST != 0 => BROADCAST,
        _ => lease.guest,
    };
    Endpoint::new(to, dhcp::CLIENT_PORT)
}

fn reply(config: &Config, ask: &Message<'_>, verdict: Verdict, lease: &Lease, link_mtu: u16) -> Vec<u8> {
    // RFC 2131 §2: every client takes 576 bytes; RFC 2132 §9.10: larger ones only if it says so.
    let allowed = ask.option_u16(opt::MAX_SIZE).unwrap_or(0).min(link_mtu).clamp(SIZE_MIN, SIZE_MAX);
    let yiaddr = if verdict.leases() { lease.guest } else { Addr::V4_UNSPECIFIED };
    let ciaddr = match verdict {
        Verdict::Ack | Verdict::Inform | Verdict::Bootp => ask.ciaddr,
        Verdict::Offer | Verdict::RapidAck | Verdict::Nak => Addr::V4_UNSPECIFIED,
    };
    let mut reply = Reply::new(ask, &ciaddr, &yiaddr, usize::from(allowed) - IPV4_LEN - UDP_LEN);
    let listed = ask.option(opt::PARAMETER_LIST).unwrap_or_default();
    for (code, data) in fitting(config, options(config, ask, verdict, lease, &listed), &reply, &listed) {
        reply.option(code, &data);
    }
    reply.finish()
}

type Options = Vec<(u8, Vec<u8>)>;

/// All we have to say but the search list, the most needed first.
fn options(config: &Config, ask: &Message<'_>, verdict: Verdict, lease: &Lease, listed: &[u8]) -> Options {
    let mut o: Options = Vec::new();
    if let Some(t) = verdict.message_type() {
        o.push((opt::MESSAGE_TYPE, vec![t]));
        o.push((opt::SERVER_ID, lease.ours.wire().to_vec()));
    }
    if verdict == Verdict::Nak {
        o.push((opt::MESSAGE, NAK_TEXT.to_vec()));
    } else {
        if matches!(verdict, Verdict::Offer | Verdict::Ack | Verdict::RapidAck) {
            let lifetimes = config.lifetimes();
            o.push((opt::LEASE_TIME, lifetimes.end.to_be_bytes().to_vec()));
            if lifetimes != Lifetimes::INFINITE {
                // RFC 2132 §9.11, §9.12: earlier than at half the time.
                o.push((opt::RENEWAL_TIME, lifetimes.renew.to_be_bytes().to_vec()));
                o.push((opt::REBINDING_TIME, lifetimes.rebind.to_be_bytes().to_vec()));
            }
        }
        if verdict == Verdict::RapidAck {
            o.push((opt::RAPID_COMMIT, vec![]));
        }
        settings(&mut o, config, lease);
        names(&mut o, config, ask, listed);
    }
    // RFC 6842 §3: the client's identifier in every answer.
    o.extend(ask.option(opt::CLIENT_ID).filter(|id| !id.is_empty()).map(|id| (opt::CLIENT_ID, id)));
    o
}

fn settings(o: &mut Options, config: &Config, lease: &Lease) {
    o.push((opt::SUBNET_MASK, mask(lease.len).to_vec()));
    o.push((opt::ROUTER, lease.ours.wire().to_vec()));
    if !lease.ours.same_prefix(&lease.guest, lease.len) {
        // RFC 3442: the gateway is on the link though outside the subnet, then the default route through it.
        let g = lease.ours.wire();
        let routes = [&[32][..], g, &[0; 4], &[0], g].concat();
        o.push((opt::CLASSLESS_ROUTES, routes));
    }
    let dns: Vec<u8> = config.resolvers(Family::V4).flat_map(|a| a.wire().to_vec()).collect();
    if !dns.is_empty() {
        o.push((opt::DNS, dns));
    }
    if let Some(mtu) = config.mtu.filter(|m| *m >= MTU_MIN) {
        o.push((opt::MTU, mtu.to_be_bytes().to_vec()));
    }
}

fn names(o: &mut Options, config: &Config, ask: &Message<'_>, listed: &[u8]) {
    if let Some(host) = config.hostname.as_deref().filter(|h| !h.is_empty()) {
        o.push((opt::HOST_NAME, host.as_bytes().to_vec()));
    }
    let Some(fqdn) = config.fqdn.as_deref().map(|f| f.trim_end_matches('.')) else { return };
    let Some(wire) = name::encode(fqdn) else { return };
    if let (true, Some((_, domain))) = (listed.contains(&opt::DOMAIN_NAME), fqdn.split_once('.')) {
        o.push((opt::DOMAIN_NAME, domain.as_bytes().to_vec()));
    }
    if ask.option(opt::MESSAGE_TYPE).is_none() {
        return;
    }
    // RFC 4702 §2.1, §4: the encoding as the client has it; nobody here updates the DNS, which overrides its wish if it had
    // one. Both RCODE fields are 255 (§2.2). One that has not asked is told as well, of what was set for it by hand
    // (RFC 2131 §4.3.1).
    let flags = ask.option(opt::CLIENT_FQDN).and_then(|a| a.first().copied()).unwrap_or(FQDN_ENCODED);
    let wished = if flags & FQDN_SERVER_UPDATES != 0 { FQDN_OVERRIDE } else { 0 };
    let encoded = flags & FQDN_ENCODED;
    let name = if encoded != 0 { &wire[..] } else { fqdn.as_bytes() };
    o.push((opt::CLIENT_FQDN, [&[encoded | FQDN_NO_UPDATES | wished, 255, 255][..], name].concat()));
}

/// The options that fit, in the order they are sent: the message type, those the client listed in its order and once, the
/// others by number.
fn fitting(config: &Config, all: Options, reply: &Reply, listed: &[u8]) -> Options {
    let mut room = reply.room();
    let nak = all.iter().any(|(c, d)| *c == opt::MESSAGE_TYPE && *d == [kind::NAK]);
    let mut kept: Options = Vec::new();
    for (code, data) in all {
        if let Some(left) = room.checked_sub(option_len(data.len())) {
            room = left;
            kept.push((code, data));
        }
    }
    if !nak {
        // A search list is cut to the room left: the first domains are those that matter.
        let max = room.saturating_sub(2 * room.div_ceil(257));
        let mut search = Names::compressed();
        for domain in config.search_list() {
            search.push(domain, max);
        }
        if !search.is_empty() {
            kept.push((opt::DOMAIN_SEARCH, search.bytes().to_vec()));
        }
    }
    let rank = |code: u8| match listed.iter().position(|l| *l == code) {
        Some(at) => (1, at),
        None if code == opt::MESSAGE_TYPE => (0, 0),
        None => (2, usize::from(code)),
    };
    kept.sort_by_key(|(code, _)| rank(*code));
    kept
}

const BROADCAST: Addr = Addr::v4([255; 4]);
const NAK_TEXT: &[u8] = b"wrong address";
/// Bytes of the IP packet: what every host takes, and what fits every Ethernet.
const SIZE_MIN: u16 = 576;
const SIZE_MAX: u16 = 1500;
/// RFC 2132 §5.1: the option's smallest legal value.
const MTU_MIN: u16 = 68;
/// Flags of RFC 4702 §2.1.
const FQDN_SERVER_UPDATES: u8 = 0x01;
const FQDN_OVERRIDE: u8 = 0x02;
const FQDN_ENCODED: u8 = 0x04;
const FQDN_NO_UPDATES: u8 = 0x08;

#[cfg(test)]
mod tests;
