//! Route netlink: whole dumps, and batches of changes in one round trip.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A route netlink socket of the network namespace the process was in when it was opened.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    room: Vec<u8>,
}

/// One change and its flags beside `NLM_F_REQUEST`.
pub type Change = (RouteNetlinkMessage, u16);

impl Netlink {
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Kernels before 4.20 do not know it; their dumps hold more, and the reader filters anyway.
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_cap_ack(true);
        Ok(Netlink { socket, sequence: 0, room: Vec::with_capacity(DATAGRAM_BYTES) })
    }

    /// Everything the kernel lists for `request`. Replies that do not decode are left out.
    ///
    /// # Errors
    /// The kernel's answer to the request, or of the socket.
    pub fn dump(&mut self, request: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        self.dump_into(request, &mut found, Vec::clear, Vec::push)?;
        Ok(found)
    }

    /// As [`Netlink::dump`], message by message, for lists that are longer than what is kept of them. `restart` is called
    /// before each try.
    ///
    /// # Errors
    /// As [`Netlink::dump`].
    pub fn dump_into<T>(
        &mut self,
        request: &RouteNetlinkMessage,
        found: &mut T,
        restart: impl Fn(&mut T),
        take: impl Fn(&mut T, RouteNetlinkMessage),
    ) -> io::Result<()> {
        for _ in 0..DUMP_TRIES {
            restart(found);
            if self.dump_once(request, &mut |message| take(found, message))? {
                return Ok(());
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the kernel's network configuration kept changing while it was read",
        ))
    }

    /// The kernel's one answer to a question that is no list.
    ///
    /// # Errors
    /// The kernel's answer to the request, or of the socket.
    pub fn ask(&mut self, request: &RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let sequence = self.next_sequence();
        self.send(&encode(request, NLM_F_REQUEST, sequence))?;
        loop {
            for m in messages(self.receive(0)?) {
                match m.payload {
                    _ if m.header.sequence_number != sequence => {}
                    NetlinkPayload::InnerMessage(one) => return Ok(one),
                    NetlinkPayload::Error(e) => return Err(to_error(e.raw_code())),
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        }
    }

    /// Submits `changes` in order with one system call and returns what became of each. A failed change does not stop
    /// the later ones.
    ///
    /// # Errors
    /// Of the socket. The kernel's answers are in the list.
    pub fn apply(&mut self, changes: &[Change]) -> io::Result<Vec<io::Result<()>>> {
        let mut outcome = Vec::with_capacity(changes.len());
        for part in changes.chunks(BATCH) {
            self.apply_batch(part, &mut outcome)?;
        }
        Ok(outcome)
    }

    /// From now on [`Netlink::next_within`] delivers what the kernel tells this multicast group.
    ///
    /// # Errors
    /// The kernel's.
    pub fn subscribe(&self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    /// The next messages of the groups subscribed to; `None` after `timeout`.
    ///
    /// # Errors
    /// `ENOBUFS` when more came than the receive buffer holds.
    pub fn next_within(&mut self, timeout: Duration) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        let wait = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, wait)? == 0 {
            return Ok(None);
        }
        Ok(Some(news(self.receive(0)?)))
    }

    /// The same without waiting; `None`: nothing more for now.
    ///
    /// # Errors
    /// `ENOBUFS` when more came than the receive buffer holds.
    pub fn next_ready(&mut self) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        match self.receive(libc::MSG_DONTWAIT) {
            Ok(datagram) => Ok(Some(news(datagram))),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The kernel answers failures always, successes only on demand: one acknowledgement, of the last change, ends the
    /// batch.
    fn apply_batch(&mut self, part: &[Change], outcome: &mut Vec<io::Result<()>>) -> io::Result<()> {
        let (start, first) = (outcome.len(), self.sequence.wrapping_add(1));
        let mut bytes = Vec::new();
        for (i, (change, flags)) in part.iter().enumerate() {
            let ack = if i + 1 == part.len() { NLM_F_ACK } else { 0 };
            bytes.extend(encode(change, flags | NLM_F_REQUEST | ack, self.next_sequence()));
            outcome.push(Ok(()));
        }
        self.send(&bytes)?;
        loop {
            for m in messages(self.receive(0)?) {
                let NetlinkPayload::Error(e) = m.payload else { continue };
                let index = m.header.sequence_number.wrapping_sub(first) as usize;
                if index >= part.len() {
                    continue;
                }
                if e.raw_code() != 0 {
                    outcome[start + index] = Err(to_error(e.raw_code()));
                }
                if index + 1 == part.len() {
                    return Ok(());
                }
            }
        }
    }

    /// False if the list changed while it was read (`NLM_F_DUMP_INTR`) and has to be read again.
    fn dump_once(
        &mut self,
        request: &RouteNetlinkMessage,
        take: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        let sequence = self.next_sequence();
        self.send(&encode(request, NLM_F_REQUEST | NLM_F_DUMP, sequence))?;
        let mut whole = true;
        loop {
            for m in messages(self.receive(0)?) {
                if m.header.sequence_number != sequence {
                    continue;
                }
                whole &= m.header.flags & NLM_F_DUMP_INTR == 0;
                match m.payload {
                    NetlinkPayload::InnerMessage(one) => take(one),
                    NetlinkPayload::Done(_) => return Ok(whole),
                    NetlinkPayload::Error(e) if e.raw_code() != 0 => return Err(to_error(e.raw_code())),
                    _ => {}
                }
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map(|_| ())
    }

    /// The next datagram of the kernel. Other processes may write to our port: theirs are skipped.
    fn receive(&mut self, flags: libc::c_int) -> io::Result<&[u8]> {
        loop {
            self.room.clear();
            match self.socket.recv_from(&mut self.room, flags) {
                Ok((_, from)) if from.port_number() == 0 => return Ok(&self.room),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What a group's datagram tells.
pub fn news(datagram: &[u8]) -> Vec<RouteNetlinkMessage> {
    let inner = |m: NetlinkMessage<RouteNetlinkMessage>| match m.payload {
        NetlinkPayload::InnerMessage(m) => Some(m),
        _ => None,
    };
    messages(datagram).into_iter().filter_map(inner).collect()
}

/// The messages in one datagram; those that do not decode are left out. The end of a dump is always recognised, else its
/// reader would wait for ever.
pub fn messages(mut datagram: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut found = Vec::new();
    while let Ok(head) = NetlinkBuffer::new_checked(datagram) {
        let len = head.length() as usize;
        let Some(one) = datagram.get(..len).filter(|_| len >= HEADER_BYTES) else { break };
        if head.message_type() == NLMSG_DONE {
            let mut header = NetlinkHeader::default();
            (header.sequence_number, header.flags) = (head.sequence_number(), head.flags());
            found.push(NetlinkMessage::new(header, NetlinkPayload::Done(Default::default())));
        } else {
            match NetlinkMessage::deserialize(one) {
                Ok(m) => found.push(m),
                Err(e) => log::debug!("netlink message of type {} left out: {e}", head.message_type()),
            }
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn encode(message: &RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut m = NetlinkMessage::from(message.clone());
    m.header.flags = flags;
    m.header.sequence_number = sequence;
    m.finalize();
    let mut bytes = vec![0; m.buffer_len().next_multiple_of(4)];
    m.serialize(&mut bytes);
    bytes
}

/// Netlink reports errors as negative numbers.
fn to_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// Largest datagram of a dump (the kernel allocates at most 32 KiB).
const DATAGRAM_BYTES: usize = 65536;
/// Changes sent together: even if all fail, their answers fit the default receive buffer.
const BATCH: usize = 64;
const DUMP_TRIES: usize = 5;
const HEADER_BYTES: usize = 16;
const NLMSG_DONE: u16 = 3;
/// The list changed during the dump.
const NLM_F_DUMP_INTR: u16 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::LinkMessage;

    proptest::proptest! {
        #[test]
        fn garbage_is_left_out(
            kind in 0..120u16,
            flags in proptest::num::u16::ANY,
            body in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        ) {
            let len = (HEADER_BYTES + body.len()) as u32;
            let mut d = Vec::new();
            d.extend(len.to_ne_bytes());
            d.extend(kind.to_ne_bytes());
            d.extend(flags.to_ne_bytes());
            d.extend([0; 8]);
            d.extend(&body);
            proptest::prop_assert!(messages(&d).len() <= 1);
            proptest::prop_assert!(messages(&body).len() <= body.len() / HEADER_BYTES);
        }
    }

    #[test]
    fn upstream_2024_03_end_of_a_dump_is_seen_after_other_messages() {
        let mut d = encode(&RouteNetlinkMessage::NewLink(LinkMessage::default()), 0, 7);
        d.extend(20u32.to_ne_bytes());
        d.extend(NLMSG_DONE.to_ne_bytes());
        d.extend([0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let found = messages(&d);
        assert_eq!(found.len(), 2);
        assert!(matches!(found[1].payload, NetlinkPayload::Done(_)));
    }

    #[test]
    fn loopback_is_listed() {
        let mut n = Netlink::open().unwrap();
        let links = n.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        assert!(links.iter().any(|l| matches!(l, RouteNetlinkMessage::NewLink(l) if l.header.index == 1)));
    }
}
