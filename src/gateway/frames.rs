//! Whole frames to the guest around a message of ours.

use crate::base::{Addr, DropReason, Endpoint, Mac};
use crate::guest::{Facts, ToGuest};
use crate::wire::checksum::Sum;
use crate::wire::emit::{self, Head, IpFields, PayloadSum};
use crate::wire::{Offload, PROTO_ICMPV6, ndp};

/// Sends an ICMPv6 message, whose checksum field is zero, with the hop limit neighbour discovery wants. A group is
/// reached through its own Ethernet address, anybody else through `dst_mac`.
pub(super) fn send_icmpv6(
    src: &Addr,
    dst: &Addr,
    dst_mac: Mac,
    mut message: Vec<u8>,
    facts: &Facts<'_>,
    link: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let dst_mac = if dst.is_multicast() { Mac::multicast_for(dst) } else { dst_mac };
    let sum = Sum::pseudo(src, dst, PROTO_ICMPV6, message.len()).add(&message).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut head = Head::new();
    let fields = fields(src, dst, dst_mac, ndp::HOP_LIMIT, facts);
    emit::ip(&mut head, &fields, PROTO_ICMPV6, message.len());
    send(&head, &message, link)
}

/// Sends a UDP datagram.
pub(super) fn send_udp(
    src: Endpoint,
    dst: Endpoint,
    dst_mac: Mac,
    payload: &[u8],
    facts: &Facts<'_>,
    link: &mut dyn ToGuest,
) -> Result<(), DropReason> {
    let mut head = Head::new();
    let fields = fields(&src.addr, &dst.addr, dst_mac, emit::TTL, facts);
    let sum = PayloadSum::Of(Sum::new().add(payload));
    emit::udp(&mut head, &fields, (src.port, dst.port), payload.len(), sum);
    send(&head, payload, link)
}

/// Sends a frame that is complete as it stands.
pub(super) fn send_frame(frame: &[u8], link: &mut dyn ToGuest) -> Result<(), DropReason> {
    link.send(frame, Offload::NONE).map_err(|_| DropReason::LinkFull)
}

fn fields(src: &Addr, dst: &Addr, dst_mac: Mac, ttl: u8, facts: &Facts<'_>) -> IpFields {
    IpFields { src_mac: facts.l2.mac_for(src), dst_mac, src: *src, dst: *dst, ttl, tos: 0, id: 0 }
}

fn send(head: &[u8], payload: &[u8], link: &mut dyn ToGuest) -> Result<(), DropReason> {
    send_frame(&[head, payload].concat(), link)
}
