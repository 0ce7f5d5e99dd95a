//! Datagrams from the guest to the sockets: staged, or straight from the frame.

use std::io;
use std::os::fd::AsFd;

use super::stage::{self, STAGE_MAX};
use super::{Side, Udp};
use crate::base::DropReason;
use crate::flow::Id;
use crate::guest::{Facts, Frame, SentHeader, ToGuest, send_fields};
use crate::sys::dgram::{self, PAYLOAD_MAX, SEGMENTS_MAX};
use crate::sys::iov::Gather;
use crate::wire::icmp::quote_max;
use crate::wire::{Gso, Packet, UDP_LEN};

impl Udp {
    /// Sends a datagram or USO frame of the flow, now or at the next flush.
    pub(super) fn forward(
        &mut self,
        id: Id,
        packet: &Packet,
        frame: &Frame<'_>,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let len = packet.payload_len;
        let segment = match frame.offload.gso {
            Gso::Udp(size) if len > usize::from(size) => usize::from(size),
            _ => 0,
        };
        let body_len = if segment == 0 { len } else { segment };
        let flow = self.table.get(id).ok_or(DropReason::NoFlow)?;
        let fields = send_fields(packet, packet.payload - packet.l3 + body_len, flow.fields.as_ref());
        let small = segment == 0 && len <= STAGE_MAX;
        if self.stage.flow.is_some() && !(small && flow.fields == Some(fields) && self.stage.takes(id, len)) {
            self.flush(facts, link);
        }
        self.touch(id, Side::Guest, (1, len), facts);
        let flow = self.table.get_mut(id).ok_or(DropReason::NoFlow)?;
        if flow.fields != Some(fields) {
            // A refused TOS or TTL is not worth the datagram.
            let _ = fields.apply(flow.socket.as_fd(), packet.src.is_v4(), flow.fields.as_ref());
            flow.fields = Some(fields);
        }
        let mut l4 = [0; UDP_LEN];
        l4.copy_from_slice(&frame.head[packet.l4..packet.payload]);
        flow.sent = Some(SentHeader::new(packet, frame.head, l4, body_len, frame.offload.csum));
        if small {
            self.stage.push(id, &frame.pieces(packet.payload, len), len);
            return Ok(());
        }
        self.send_frame(id, packet, frame, segment, facts, link)
    }

    pub(super) fn send_staged(&mut self, id: Id, facts: &Facts<'_>, link: &mut dyn ToGuest) {
        let Some((flow, key)) = self.table.get(id).zip(self.table.key(id)) else { return };
        let (runs, bytes) = (&self.stage.runs, &self.stage.bytes);
        let (mut at, mut retried) = (0, false);
        let mut told = false;
        while at < runs.len() {
            let run = runs[at];
            let e = match dgram::send_runs(flow.socket.as_fd(), bytes, &runs[at..]) {
                Ok(n) => {
                    (at, retried) = (at + n.max(1), false);
                    continue;
                }
                Err(e) => e,
            };
            if flow.renew(&e, self.config.outbound.scope) {
                continue;
            }
            if is_pending_error(&e) && !retried {
                // Either an error about an earlier datagram, cleared by telling us, or one of this one, which comes again.
                self.relay.drain(flow, key, facts, link);
                retried = true;
                continue;
            }
            if run.len > usize::from(run.segment) && refuses_segments(&e) {
                self.segments &= e.raw_os_error() != Some(libc::EIO);
                let singles = run.len.div_ceil(run.segment.into());
                for n in 0..singles {
                    let start = run.at + n * usize::from(run.segment);
                    let body = &bytes[start..(start + usize::from(run.segment)).min(run.at + run.len)];
                    if let Err(e) = dgram::send(flow.socket.as_fd(), &[Gather::new(body)], 0) {
                        self.counters.drop(DropReason::HostSend);
                        if !std::mem::replace(&mut told, true) {
                            self.relay.refused(&e, flow, key, body, facts, link);
                        }
                    }
                }
            } else {
                for _ in 0..stage::datagrams(&run) {
                    self.counters.drop(DropReason::HostSend);
                }
                if !std::mem::replace(&mut told, true) {
                    self.relay.refused(&e, flow, key, &bytes[run.at..run.at + run.len], facts, link);
                }
            }
            (at, retried) = (at + 1, false);
        }
    }

    /// Sends a large datagram or the segments of a USO frame from where they lie.
    fn send_frame(
        &mut self,
        id: Id,
        packet: &Packet,
        frame: &Frame<'_>,
        segment: usize,
        facts: &Facts<'_>,
        link: &mut dyn ToGuest,
    ) -> Result<(), DropReason> {
        let Some((flow, key)) = self.table.get(id).zip(self.table.key(id)) else { return Err(DropReason::NoFlow) };
        let end = packet.payload + packet.payload_len;
        let (mut at, mut retried, mut segments) = (packet.payload, false, self.segments);
        while at < end {
            let most = match (segment, segments) {
                (0, _) => end - at,
                // One at least, also of those that only fit IPv6.
                (size, true) => size * (PAYLOAD_MAX / size).clamp(1, SEGMENTS_MAX),
                (size, false) => size,
            };
            let len = most.min(end - at);
            let together = if len > segment { segment as u16 } else { 0 };
            let Err(e) = dgram::send(flow.socket.as_fd(), &frame.pieces(at, len), together) else {
                (at, retried) = (at + len, false);
                continue;
            };
            if flow.renew(&e, self.config.outbound.scope) {
                continue;
            }
            if is_pending_error(&e) && !retried {
                self.relay.drain(flow, key, facts, link);
                retried = true;
            } else if together != 0 && refuses_segments(&e) {
                segments = false;
                self.segments &= e.raw_os_error() != Some(libc::EIO);
            } else {
                let mut scratch = Vec::new();
                let body = frame.contiguous(at, len.min(quote_max(key.guest.addr.family())), &mut scratch);
                self.relay.refused(&e, flow, key, body, facts, link);
                return Err(DropReason::HostSend);
            }
        }
        Ok(())
    }
}

/// An error that may have been waiting on the socket since an earlier datagram.
fn is_pending_error(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EACCES
                | libc::EMSGSIZE
                | libc::EINTR
        )
    )
}

/// The kernel cannot segment for this device, or a segment exceeds the path MTU (`EINVAL` before Linux 6.13).
fn refuses_segments(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}
