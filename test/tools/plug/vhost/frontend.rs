//! The hypervisor's part of the conversation: requests, and the answers to some of them.

use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};

use super::checks::{Agreed, PROTOCOL_FEATURES, WANTED};
use super::memory::{ENTRIES, Memory};
use super::ring::Ring;

pub struct Frontend {
    socket: UnixStream,
    pub agreed: Agreed,
    protocol: VhostUserProtocolFeatures,
    pub pairs: usize,
}

impl Frontend {
    /// Agrees with the program on features, and on as many pairs of queues up to `pairs` as it has.
    pub fn connect(path: &Path, pairs: usize, unwanted: u64) -> Result<Frontend> {
        let socket = UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let protocol = VhostUserProtocolFeatures::empty();
        let mut frontend = Frontend { socket, agreed: Agreed(0), protocol, pairs: 1 };
        let offered = frontend.ask(FrontendReq::GET_FEATURES)?;
        if offered & PROTOCOL_FEATURES != 0 {
            let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
            let offered = frontend.ask(FrontendReq::GET_PROTOCOL_FEATURES)?;
            let protocol = wanted & VhostUserProtocolFeatures::from_bits_truncate(offered);
            frontend.tell(FrontendReq::SET_PROTOCOL_FEATURES, &protocol.bits().to_ne_bytes(), &[])?;
            frontend.protocol = protocol;
        }
        if frontend.protocol.contains(VhostUserProtocolFeatures::MQ) {
            frontend.pairs = pairs.min(frontend.ask(FrontendReq::GET_QUEUE_NUM)? as usize);
        }
        frontend.agreed = Agreed(offered & (WANTED | PROTOCOL_FEATURES) & !unwanted);
        ensure!(frontend.agreed.is_modern(), "the program knows no device of virtio 1.0: it offers {offered:#x}");
        frontend.tell(FrontendReq::SET_OWNER, &[], &[])?;
        frontend.tell(FrontendReq::SET_FEATURES, &frontend.agreed.0.to_ne_bytes(), &[])?;
        Ok(frontend)
    }

    /// Gives the program the memory.
    pub fn share(&mut self, memory: &Memory) -> Result<()> {
        let mut body = [1u32, 0].map(u32::to_ne_bytes).concat();
        body.extend([memory.guest(0), memory.len() as u64, memory.user(0), 0].map(u64::to_ne_bytes).concat());
        self.tell(FrontendReq::SET_MEM_TABLE, &body, &[memory.file().as_raw_fd()])
    }

    /// Starts a ring. `error`: where the program tells that it cannot go on with it.
    pub fn start(&mut self, index: usize, ring: &Ring, memory: &Memory, error: &EventFd) -> Result<()> {
        let index = index as u32;
        let state = |number: u32| [index, number].map(u32::to_ne_bytes).concat();
        let place = &ring.place;
        let mut addresses = state(0);
        for offset in [place.descriptors, place.used, place.available] {
            addresses.extend(memory.user(offset).to_ne_bytes());
        }
        addresses.extend(0u64.to_ne_bytes());
        let number = u64::from(index).to_ne_bytes();
        self.tell(FrontendReq::SET_VRING_NUM, &state(ENTRIES.into()), &[])?;
        self.tell(FrontendReq::SET_VRING_BASE, &state(0), &[])?;
        self.tell(FrontendReq::SET_VRING_ADDR, &addresses, &[])?;
        self.tell(FrontendReq::SET_VRING_ERR, &number, &[error.as_fd().as_raw_fd()])?;
        self.tell(FrontendReq::SET_VRING_CALL, &number, &[ring.call.as_fd().as_raw_fd()])?;
        self.tell(FrontendReq::SET_VRING_KICK, &number, &[ring.kick.as_fd().as_raw_fd()])?;
        if self.agreed.0 & PROTOCOL_FEATURES != 0 {
            self.tell(FrontendReq::SET_VRING_ENABLE, &state(1), &[])?;
        }
        Ok(())
    }

    /// Stops a ring. Returns the entry that would be the next.
    pub fn stop(&mut self, index: usize) -> Result<u16> {
        self.write(FrontendReq::GET_VRING_BASE, 0, &[index as u32, 0].map(u32::to_ne_bytes).concat(), &[])?;
        let answer = self.answer(FrontendReq::GET_VRING_BASE)?;
        Ok((answer >> 32) as u16)
    }

    fn ask(&mut self, request: FrontendReq) -> Result<u64> {
        self.write(request, 0, &[], &[])?;
        self.answer(request)
    }

    /// Says something that has no answer; if it was agreed on, the program says that it was done.
    fn tell(&mut self, request: FrontendReq, body: &[u8], fds: &[RawFd]) -> Result<()> {
        let acknowledged = self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK);
        self.write(request, if acknowledged { NEED_REPLY } else { 0 }, body, fds)?;
        if acknowledged && self.answer(request)? != 0 {
            bail!("the program refuses {request:?}");
        }
        Ok(())
    }

    fn write(&mut self, request: FrontendReq, flags: u32, body: &[u8], fds: &[RawFd]) -> Result<()> {
        let header = [request as u32, VERSION | flags, body.len() as u32].map(u32::to_ne_bytes).concat();
        let (parts, rights) = ([IoSlice::new(&header), IoSlice::new(body)], [ControlMessage::ScmRights(fds)]);
        let rights = if fds.is_empty() { &[] } else { &rights[..] };
        let sent = sendmsg::<()>(self.socket.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None)?;
        ensure!(sent == header.len() + body.len(), "the program does not read {request:?}");
        Ok(())
    }

    fn answer(&mut self, request: FrontendReq) -> Result<u64> {
        let mut answer = [0; 12 + 8];
        self.socket.read_exact(&mut answer).with_context(|| format!("no answer to {request:?}"))?;
        let (words, _) = answer.as_chunks();
        let [code, flags, len, low, high] = [0, 1, 2, 3, 4].map(|nth: usize| u32::from_ne_bytes(words[nth]));
        let is_answer = code == request as u32 && flags & (VERSION | REPLY) == VERSION | REPLY && len == 8;
        ensure!(is_answer, "no answer to {request:?}: {answer:?}");
        Ok(u64::from(high) << 32 | u64::from(low))
    }
}

impl AsFd for Frontend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Of the flags of a message.
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(5);
