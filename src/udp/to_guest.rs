//! Received datagrams as frames to the guest: whole, coalesced (USO), cut or fragmented.

use std::ops::Range;
use std::os::fd::AsFd;

use super::flow::Flow;
use crate::base::{Counters, DropReason, Family};
use crate::flow::FlowKey;
use crate::guest::{Areas, COMMON_MTU, Caps, Facts, Fill, LinkFull, Reservation, ToGuest, counted};
use crate::sys::dgram::{Inbox, Meta};
use crate::wire::checksum::Sum;
use crate::wire::emit::{self, Head, IpFields, PayloadSum};
use crate::wire::{self, ETH_LEN, Gso, Offload, UDP_LEN, fragment, ip_len};

/// What is needed to make frames, owned by the engine.
#[derive(Debug)]
pub struct Framer {
    pub inbox: Inbox,
    /// Identification of the next fragmented datagram.
    fragment_id: u32,
    scratch: Vec<u8>,
    copied: Vec<u8>,
}

impl Framer {
    /// `fragment_id`: any number, better a random one (RFC 7739).
    pub fn new(slots: usize, fragment_id: u32) -> Framer {
        Framer { inbox: Inbox::new(slots), fragment_id, scratch: Vec::new(), copied: Vec::new() }
    }

    /// Sends the `i`-th received buffer to the guest.
    ///
    /// # Errors
    /// The link was full; what remained of the buffer is counted as dropped.
    pub fn deliver(
        &mut self,
        i: usize,
        meta: &Meta,
        key: &FlowKey,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        counters: &mut Counters,
    ) -> Result<(), LinkFull> {
        if meta.truncated {
            counters.drop(DropReason::FrameLength);
            return Ok(());
        }
        let caps = link.caps();
        let f = self.fields(key, meta, facts);
        let segment = if meta.segment == 0 { meta.len } else { usize::from(meta.segment) };
        if fits_whole(&caps, &f, meta) {
            let sum = payload_sum(&caps, || Sum::new().add(self.inbox.payload(i)));
            let mut head = Head::new();
            let csum = emit::udp(&mut head, &f, ports(key), meta.len, sum);
            let offload = Offload { csum, gso: gso(meta) };
            let frame = self.inbox.framed(i, &head, 0, meta.len);
            return counted(link.send(frame, offload), frame.len(), counters);
        }
        let mut at = 0;
        loop {
            let len = segment.min(meta.len - at);
            self.datagram(i, at..at + len, (&f, key), &caps, link, counters)?;
            at += len;
            if at >= meta.len {
                return Ok(());
            }
        }
    }

    /// Sends the first `n` received buffers; returns their bytes and whether the link was full.
    pub fn deliver_batch(
        &mut self,
        n: usize,
        key: &FlowKey,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        counters: &mut Counters,
    ) -> (usize, bool) {
        let (mut bytes, mut full) = (0, false);
        for i in 0..n {
            let meta = self.inbox.meta(i);
            bytes += meta.len;
            full |= self.deliver(i, &meta, key, facts, link, counters).is_err();
        }
        (bytes, full)
    }

    /// Receives into areas of the link, and sends what is there as it is. `None`: the link has no areas to give.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    pub fn receive_large(
        &mut self,
        flow: &Flow,
        key: &FlowKey,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
        counters: &mut Counters,
    ) -> Option<std::io::Result<Large>> {
        let caps = link.caps();
        let mut copied = std::mem::take(&mut self.copied);
        let mut odd = None;
        let mut large = Large::default();
        {
            let mut room = Reservation::new(
                link,
                LARGE_AREAS,
                ETH_LEN + ip_len(key.guest.addr.family()) + UDP_LEN,
                large_len(key.guest.addr.family()),
                Fill::Messages,
            )?;
            large.asked = room.left().min(self.inbox.slots());
            let received = {
                let mut areas = Areas::new();
                room.areas(&mut areas);
                self.inbox.receive_into(flow.socket.as_fd(), &mut areas, large.asked)
            };
            large.got = match received {
                Ok(n) => n,
                Err(e) => return Some(Err(e)),
            };
            for i in 0..large.got {
                let meta = self.inbox.meta(i);
                large.bytes += meta.len;
                let f = self.fields(key, &meta, facts);
                if meta.truncated || !fits_whole(&caps, &f, &meta) {
                    // What the areas hold from here on has to be cut: take it out of them.
                    copied.clear();
                    let left = room.left();
                    let mut areas = Areas::new();
                    room.areas(&mut areas);
                    let pieces = areas.len() / left;
                    for (area, n) in areas.chunks(pieces).zip(i..large.got) {
                        let end = copied.len() + self.inbox.meta(n).len;
                        area.iter().for_each(|piece| piece.copy_to(end - copied.len(), &mut copied));
                    }
                    odd = Some(i);
                    break;
                }
                let mut head = Head::new();
                let csum = emit::udp(&mut head, &f, ports(key), meta.len, room.payload_sum(meta.len));
                let result = room.commit(&head, meta.len, Offload { csum, gso: gso(&meta) });
                large.full |= counted(result, head.len() + meta.len, counters).is_err();
            }
        }
        let mut at = 0;
        for i in odd.unwrap_or(large.got)..large.got {
            let meta = self.inbox.meta(i);
            self.inbox.fill(i, &copied[at..at + meta.len]);
            at += meta.len;
            large.full |= self.deliver(i, &meta, key, facts, link, counters).is_err();
        }
        large.odd = odd.is_some();
        self.copied = copied;
        Some(Ok(large))
    }

    /// Addresses and header fields of a frame. Over IPv4 what is longer than a common link takes may be fragmented behind the guest
    /// (RFC 6864 §4.3): it may be a router, whose errors would reach nobody.
    fn fields(&mut self, key: &FlowKey, meta: &Meta, facts: &Facts<'_>) -> IpFields {
        let mut f = fields(key, meta, facts);
        if f.src.is_v4() && wire::IPV4_LEN + UDP_LEN + meta.len > COMMON_MTU && !is_coalesced(meta) {
            self.fragment_id = self.fragment_id.wrapping_add(1);
            f.id = (self.fragment_id as u16).max(1);
        }
        f
    }

    /// One datagram, a part of the `i`-th buffer, in one frame or in fragments.
    fn datagram(
        &mut self,
        i: usize,
        part: Range<usize>,
        (f, key): (&IpFields, &FlowKey),
        caps: &Caps,
        link: &mut dyn ToGuest,
        counters: &mut Counters,
    ) -> Result<(), LinkFull> {
        let (at, len) = (part.start, part.len());
        let payload = &self.inbox.payload(i)[part];
        let mut head = Head::new();
        if len <= single_max(caps, f) {
            let sum = payload_sum(caps, || Sum::new().add(payload));
            let csum = emit::udp(&mut head, f, ports(key), len, sum);
            let frame = self.inbox.framed(i, &head, at, len);
            return counted(link.send(frame, Offload { csum, gso: Gso::None }), frame.len(), counters);
        }
        // The sum covers all fragments, so no link can make it.
        emit::udp(&mut head, f, ports(key), len, PayloadSum::Of(Sum::new().add(payload)));
        let udp = &head[head.len() - UDP_LEN..];
        let l4 = self.inbox.framed(i, udp, at, len);
        self.fragment_id = self.fragment_id.wrapping_add(1);
        let scratch = &mut self.scratch;
        let mut result = Ok(());
        fragment::cut(f, wire::PROTO_UDP, l4.len(), caps.mtu, self.fragment_id, |head, range| {
            scratch.clear();
            scratch.extend_from_slice(head);
            scratch.extend_from_slice(&l4[range]);
            result = counted(link.send(scratch, Offload::NONE), scratch.len(), counters);
            result.is_ok()
        });
        result
    }
}

/// What a call of [`Framer::receive_large`] did.
#[derive(Debug, Default)]
pub struct Large {
    pub asked: usize,
    pub got: usize,
    pub bytes: usize,
    /// A buffer had to be cut by hand: areas do not pay off.
    pub odd: bool,
    pub full: bool,
}

const LARGE_AREAS: usize = 8;

/// The longest payload there is. The length field of IPv6 does not count its header (RFC 8200 §3).
fn large_len(family: Family) -> usize {
    let counted = if family == Family::V4 { wire::IPV4_LEN } else { 0 };
    65_535 - counted - UDP_LEN
}

/// Addresses and header fields of frames to the guest: TTL and TOS as the host received them.
fn fields(key: &FlowKey, meta: &Meta, facts: &Facts<'_>) -> IpFields {
    IpFields {
        src_mac: facts.l2.mac_for(&key.remote.addr),
        dst_mac: facts.l2.guest_mac,
        src: key.remote.addr,
        dst: key.guest.addr,
        ttl: meta.ttl.unwrap_or(emit::TTL),
        tos: meta.tos,
        id: 0,
    }
}

fn ports(key: &FlowKey) -> (u16, u16) {
    (key.remote.port, key.guest.port)
}

/// Largest payload of a frame that is not segmented by the link.
fn single_max(caps: &Caps, f: &IpFields) -> usize {
    usize::from(caps.mtu).saturating_sub(ip_len(f.src.family()) + UDP_LEN)
}

/// True if the buffer can go as one frame: a datagram within the MTU, or several that the link or the guest cuts.
fn fits_whole(caps: &Caps, f: &IpFields, meta: &Meta) -> bool {
    if !is_coalesced(meta) {
        return meta.len <= single_max(caps, f);
    }
    // The length fields of the large frame are 16 bits wide too.
    let l4_max = 65_535 - if f.src.is_v4() { wire::IPV4_LEN } else { 0 };
    caps.uso && caps.csum && usize::from(meta.segment) <= single_max(caps, f) && UDP_LEN + meta.len <= l4_max
}

fn is_coalesced(meta: &Meta) -> bool {
    meta.segment != 0 && meta.len > usize::from(meta.segment)
}

fn gso(meta: &Meta) -> Gso {
    if is_coalesced(meta) { Gso::Udp(meta.segment) } else { Gso::None }
}

fn payload_sum(caps: &Caps, sum: impl FnOnce() -> Sum) -> PayloadSum {
    if caps.csum { PayloadSum::Partial } else { PayloadSum::Of(sum()) }
}

const _: () = assert!(ETH_LEN + 40 + 8 + UDP_LEN <= crate::sys::dgram::HEADROOM);
