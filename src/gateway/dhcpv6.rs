//! DHCPv6 server with one lease (RFC 8415 §18.3). Stateless: one IA_NA of a client, the one that holds the
//! assigned address or else the first, is the binding; all others have none.

use arrayvec::ArrayVec;

use super::Config;
use super::config::Lifetimes;
use super::frames::send_udp;
use crate::base::{Addr, DropReason, Endpoint, Family};
use crate::guest::{Facts, ToGuest};
use crate::wire::dhcpv6::{self, Ia, Message, Status, Writer, kind, opt};
use crate::wire::name::{self, Names};
use crate::wire::{IPV6_LEN, Packet, UDP_LEN};

/// Answers the UDP payload of `packet`.
pub(super) fn answer(
    config: &Config,
    packet: &Packet,
    payload: &[u8],
    facts: &Facts<'_>,
    link: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let ours = config.our_link_local.ok_or(DropReason::Disabled)?;
    if !packet.src.is_unicast() {
        return Err(DropReason::Dhcpv6);
    }
    let ask = dhcpv6::parse(payload).ok_or(DropReason::Dhcpv6)?;
    let reply = reply(config, &ask).ok_or(DropReason::Dhcpv6)?;
    log::debug!("DHCPv6: message type {} answered to {}", ask.kind, packet.src);
    let (src, dst) = (Endpoint::new(ours, dhcpv6::SERVER_PORT), Endpoint::new(packet.src, dhcpv6::CLIENT_PORT));
    send_udp(src, dst, packet.src_mac, &reply, facts, link)
}

type Ias<'a> = ArrayVec<Ia<'a>, IAS_MAX>;

fn reply(config: &Config, ask: &Message<'_>) -> Option<Vec<u8>> {
    let ias = ias(ask)?;
    check(config, ask, &ias)?;
    let rapid = ask.kind == kind::SOLICIT && ask.option(opt::RAPID_COMMIT).is_some();
    let reply_kind = if ask.kind == kind::SOLICIT && !rapid { kind::ADVERTISE } else { kind::REPLY };
    let mut w = Writer::new(reply_kind, ask.xid);
    w.option(opt::SERVER_ID, &config.duid());
    if let Some(id) = ask.option(opt::CLIENT_ID) {
        w.option(opt::CLIENT_ID, id);
    }
    if rapid {
        w.option(opt::RAPID_COMMIT, &[]);
    }
    let lease = config.assigned.v6;
    let lifetimes = config.lifetimes();
    let binding = binding(&ias, lease);
    match ask.kind {
        kind::SOLICIT | kind::REQUEST => {
            let claims = ask.kind == kind::REQUEST;
            let bound = |i| lease.filter(|_| binding == Some(i)).map(|_| lifetimes);
            ias.iter().enumerate().for_each(|(i, ia)| grant(&mut w, ia, lease, bound(i), claims));
        }
        kind::RENEW | kind::REBIND => {
            let bound = |i| lease.filter(|_| binding == Some(i)).map(|_| lifetimes);
            ias.iter().enumerate().for_each(|(i, ia)| extend(&mut w, ia, lease, bound(i)));
        }
        kind::CONFIRM => {
            confirm(&mut w, &ias, lease)?;
            return Some(w.into_bytes());
        }
        kind::RELEASE | kind::DECLINE => {
            release(&mut w, &ias, lease);
            return Some(w.into_bytes());
        }
        _ => {}
    }
    settings(&mut w, config, ask);
    Some(w.into_bytes())
}

/// RFC 8415 §16: which identifiers a message must have and must not have.
fn check(config: &Config, ask: &Message<'_>, ias: &Ias<'_>) -> Option<()> {
    let client = ask.option(opt::CLIENT_ID);
    let server = ask.option(opt::SERVER_ID);
    // §11.1: a DUID is two bytes of type and 1 to 128 more.
    if client.is_some_and(|id| !(3..=130).contains(&id.len())) {
        return None;
    }
    let to_us = server == Some(&config.duid()[..]);
    let ok = match ask.kind {
        kind::SOLICIT | kind::CONFIRM | kind::REBIND => client.is_some() && server.is_none(),
        kind::REQUEST | kind::RENEW | kind::RELEASE | kind::DECLINE => client.is_some() && to_us,
        // §16.12: the client may stay anonymous.
        kind::INFORMATION_REQUEST => (server.is_none() || to_us) && ias.is_empty(),
        _ => false,
    };
    ok.then_some(())
}

/// All associations of a message; `None` if one is malformed or there are more than any client has.
fn ias<'a>(ask: &Message<'a>) -> Option<Ias<'a>> {
    let mut all = Ias::new();
    for ia in ask.ias() {
        all.try_push(ia?).ok()?;
    }
    Some(all)
}

fn binding(ias: &Ias<'_>, lease: Option<(Addr, u8)>) -> Option<usize> {
    let (guest, _) = lease?;
    ias.iter().position(|ia| holds(ia, &guest)).or_else(|| ias.iter().position(|ia| ia.code == opt::IA_NA))
}

fn holds(ia: &Ia<'_>, guest: &Addr) -> bool {
    ia.code == opt::IA_NA && ia.addrs().any(|a| a == *guest)
}

/// §18.3.1, §18.3.2: the lease, or why there is none. Addresses in a Solicit are wishes, in a Request they are claims.
fn grant(w: &mut Writer, ia: &Ia<'_>, lease: Option<(Addr, u8)>, bound: Option<Lifetimes>, claims: bool) {
    let off_link = |(guest, len): (Addr, u8)| ia.addrs().any(|a| !a.same_prefix(&guest, len));
    match (lease, bound) {
        (Some(lease), _) if claims && ia.code == opt::IA_NA && off_link(lease) => {
            w.ia(ia, NO_TIME, |w| w.status(Status::NotOnLink, "another link's address"));
        }
        (Some((guest, _)), Some(t)) => w.ia(ia, (t.renew, t.rebind), |w| w.addr(&guest, t.end)),
        _ if ia.code == opt::IA_PD => w.ia(ia, NO_TIME, |w| w.status(Status::NoPrefixAvail, "no prefixes here")),
        _ => w.ia(ia, NO_TIME, |w| w.status(Status::NoAddrsAvail, "no more addresses")),
    }
}

/// §18.3.4, §18.3.5: the lease again, and lifetime zero for addresses that are not the client's; no binding for others.
fn extend(w: &mut Writer, ia: &Ia<'_>, lease: Option<(Addr, u8)>, bound: Option<Lifetimes>) {
    match (lease, bound) {
        (Some((guest, _)), Some(t)) => w.ia(ia, (t.renew, t.rebind), |w| {
            w.addr(&guest, t.end);
            for wrong in ia.addrs().filter(|a| *a != guest).take(ADDRS_MAX) {
                w.addr(&wrong, 0);
            }
        }),
        _ => w.ia(ia, NO_TIME, |w| w.status(Status::NoBinding, "unknown here")),
    }
}

/// §18.3.3: one status for all addresses, and silence if there are none or we cannot tell.
fn confirm(w: &mut Writer, ias: &Ias<'_>, lease: Option<(Addr, u8)>) -> Option<()> {
    let (guest, len) = lease?;
    let mut addrs = ias.iter().flat_map(Ia::addrs).peekable();
    addrs.peek()?;
    if addrs.all(|a| a.same_prefix(&guest, len)) {
        w.status(Status::Success, "on this link");
    } else {
        w.status(Status::NotOnLink, "another link's address");
    }
    Some(())
}

/// §18.3.7, §18.3.8: success, beside associations that were never bound.
fn release(w: &mut Writer, ias: &Ias<'_>, lease: Option<(Addr, u8)>) {
    w.status(Status::Success, "done");
    for ia in ias.iter().filter(|ia| !lease.is_some_and(|(guest, _)| holds(ia, &guest))) {
        w.ia(ia, NO_TIME, |w| w.status(Status::NoBinding, "unknown here"));
    }
}

/// The options that are no addresses, as far as the client asks for them (§18.3).
fn settings(w: &mut Writer, config: &Config, ask: &Message<'_>) {
    let dns: Vec<u8> = config.resolvers(Family::V6).flat_map(|a| *a.octets()).collect();
    if !dns.is_empty() && ask.asks_for(opt::DNS) {
        w.option(opt::DNS, &dns);
    }
    let wanted = ask.asks_for(opt::CLIENT_FQDN) || ask.option(opt::CLIENT_FQDN).is_some();
    if let Some(name) = config.fqdn.as_deref().filter(|_| wanted).and_then(name::encode) {
        // RFC 4704 §4.1, §6: no DNS updates by us, which overrides a client that wanted them.
        let asked = ask.option(opt::CLIENT_FQDN).and_then(|d| d.first().copied()).unwrap_or(0);
        let wished = if asked & FQDN_SERVER_UPDATES != 0 { FQDN_OVERRIDE } else { 0 };
        w.option(opt::CLIENT_FQDN, &[&[FQDN_NO_UPDATES | wished][..], &name].concat());
    }
    if ask.asks_for(opt::DOMAIN_SEARCH) {
        let mut names = Names::plain();
        for domain in config.search_list() {
            names.push(domain, REPLY_MAX.saturating_sub(w.len() + 4));
        }
        if !names.is_empty() {
            w.option(opt::DOMAIN_SEARCH, names.bytes());
        }
    }
}

/// T1 and T2 of associations that hold nothing.
const NO_TIME: (u32, u32) = (0, 0);
/// A client has one association an interface; what has more is not a client.
const IAS_MAX: usize = 8;
/// Addresses answered with lifetime zero in one association.
const ADDRS_MAX: usize = 4;
/// What fits the smallest IPv6 MTU (RFC 8200 §5): the search list takes what the limits above leave, at least 300 bytes.
const REPLY_MAX: usize = 1280 - IPV6_LEN - UDP_LEN;
/// Flags of RFC 4704 §4.1.
const FQDN_SERVER_UPDATES: u8 = 0x01;
const FQDN_OVERRIDE: u8 = 0x02;
const FQDN_NO_UPDATES: u8 = 0x04;

#[cfg(test)]
mod tests;
