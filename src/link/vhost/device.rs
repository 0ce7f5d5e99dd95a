//! What the hypervisor has said: features, memory, where the rings are, who runs.
//!
//! A ring runs from when it has a kick descriptor until its base is asked for; a change of the memory or of its addresses
//! finds it again at its new place. Requests that make no sense change nothing and are refused with a reason; the connection goes on.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::{virtio_config, virtio_net, virtio_ring};

use super::message::Request;
use super::ring::{Addresses, Direction, NUM_MAX, Ring};
use super::rings::{PAIRS, Queue, Rings};
use crate::sys::event;
use crate::sys::memory::{DirtyLog, GuestMemory, Region};

/// Regions of memory.
const REGIONS: usize = 32;

const fn bit(n: u32) -> u64 {
    1 << n
}

pub const GUEST_CSUM: u64 = bit(virtio_net::VIRTIO_NET_F_GUEST_CSUM);
pub const GUEST_TSO: u64 = bit(virtio_net::VIRTIO_NET_F_GUEST_TSO4) | bit(virtio_net::VIRTIO_NET_F_GUEST_TSO6);
pub const GUEST_USO: u64 = bit(virtio_net::VIRTIO_NET_F_GUEST_USO4) | bit(virtio_net::VIRTIO_NET_F_GUEST_USO6);
pub const MERGEABLE: u64 = bit(virtio_net::VIRTIO_NET_F_MRG_RXBUF);
const VERSION_1: u64 = bit(virtio_config::VIRTIO_F_VERSION_1);
const EVENT_INDEX: u64 = bit(virtio_ring::VIRTIO_RING_F_EVENT_IDX);
pub const LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// What we offer.
pub const FEATURES: u64 = VERSION_1
    | MERGEABLE
    | bit(virtio_net::VIRTIO_NET_F_CSUM)
    | GUEST_CSUM
    | bit(virtio_net::VIRTIO_NET_F_HOST_TSO4)
    | bit(virtio_net::VIRTIO_NET_F_HOST_TSO6)
    | bit(virtio_net::VIRTIO_NET_F_HOST_USO)
    | GUEST_TSO
    | GUEST_USO
    | bit(virtio_net::VIRTIO_NET_F_CTRL_VQ)
    | bit(virtio_net::VIRTIO_NET_F_MQ)
    | EVENT_INDEX
    | bit(virtio_ring::VIRTIO_RING_F_INDIRECT_DESC)
    | LOG_ALL
    | PROTOCOL_FEATURES;

/// Extensions of the protocol that we offer.
pub const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::RARP)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::MTU)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(VhostUserProtocolFeatures::STATUS);

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Done, and this is the answer.
    Answer(Vec<u8>),
    /// Not done, and why.
    Refused(String),
}

/// The conversation's state on behalf of one connection. What it is about are the [`Rings`].
#[derive(Debug, Default)]
pub struct Device {
    protocol: u64,
    status: u64,
    /// Kick descriptors to poll from now on, and not any more.
    pub polling: Vec<Watch>,
}

/// A change in what is to be polled for readability.
#[derive(Debug)]
pub enum Watch {
    /// From now on, on behalf of this ring. To be begun before the next request is dealt with.
    Begin(RawFd, usize),
    /// Not any more, on behalf of the same ring; it is closed when this is dropped.
    End(OwnedFd, usize),
}

impl Device {
    /// True if failures are told where the other end asks for it.
    pub fn acknowledges(&self) -> bool {
        self.protocol & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
    }

    /// Does what is asked, to rings none of which is anywhere else.
    pub fn handle(&mut self, rings: &mut Rings, request: &mut Request) -> Outcome {
        // A ring that is found again begins at what the driver knows of.
        rings.publish_all();
        let Some(code) = request.code() else { return Outcome::Refused("there is no such request".into()) };
        match self.query(code) {
            Some(number) => answer(number),
            None => self.change(rings, code, request).unwrap_or_else(Outcome::Refused),
        }
    }

    /// The answer to a question.
    fn query(&self, code: FrontendReq) -> Option<u64> {
        match code {
            FrontendReq::GET_FEATURES => Some(FEATURES),
            FrontendReq::GET_PROTOCOL_FEATURES => Some(PROTOCOL.bits()),
            FrontendReq::GET_QUEUE_NUM => Some(PAIRS as u64),
            FrontendReq::GET_MAX_MEM_SLOTS => Some(REGIONS as u64),
            FrontendReq::GET_STATUS => Some(self.status),
            _ => None,
        }
    }

    fn change(&mut self, rings: &mut Rings, code: FrontendReq, request: &mut Request) -> Result<Outcome, String> {
        match code {
            FrontendReq::SET_OWNER | FrontendReq::SEND_RARP | FrontendReq::SET_LOG_FD => {}
            FrontendReq::RESET_OWNER | FrontendReq::RESET_DEVICE => self.reset(rings),
            FrontendReq::SET_FEATURES => rings.set_features(number(request)?)?,
            FrontendReq::SET_PROTOCOL_FEATURES => {
                self.protocol = known(number(request)?, PROTOCOL.bits())?;
            }
            FrontendReq::SET_STATUS => {
                self.status = number(request)?;
                if self.status == 0 {
                    self.reset(rings);
                }
            }
            FrontendReq::NET_SET_MTU => drop(number(request)?),
            FrontendReq::SET_MEM_TABLE => rings.set_memory(request)?,
            FrontendReq::ADD_MEM_REG => rings.add_memory(request)?,
            FrontendReq::REM_MEM_REG => rings.remove_memory(request)?,
            FrontendReq::SET_LOG_BASE => {
                rings.set_log(request)?;
                return Ok(answer(0));
            }
            FrontendReq::SET_VRING_NUM => {
                let (queue, num) = rings.state(request)?;
                let valid = num.is_power_of_two() && num <= NUM_MAX;
                queue.num = if valid { num as u16 } else { return Err(format!("no ring has {num} entries")) };
                queue.leave();
            }
            FrontendReq::SET_VRING_BASE => {
                let (queue, base) = rings.state(request)?;
                let base = u16::try_from(base).map_err(|_| format!("no ring has an entry {base}"))?;
                queue.leave();
                queue.base = base;
            }
            FrontendReq::SET_VRING_ENABLE => {
                let (queue, on) = rings.state(request)?;
                queue.enabled = on != 0;
            }
            FrontendReq::SET_VRING_ADDR => rings.set_addresses(request)?,
            FrontendReq::GET_VRING_BASE => return self.stop(rings, request),
            FrontendReq::SET_VRING_KICK => self.set_kick(rings, request)?,
            FrontendReq::SET_VRING_CALL => {
                let (queue, fd) = rings.event(request)?;
                // What was done before it came may not have been told.
                fd.iter().for_each(event::tell);
                queue.call = fd;
            }
            FrontendReq::SET_VRING_ERR => {
                let (queue, fd) = rings.event(request)?;
                queue.error = fd;
            }
            // An empty answer is how it fails.
            FrontendReq::GET_CONFIG => return Ok(Outcome::Answer(Vec::new())),
            _ => return Err("that is not supported".into()),
        }
        rings.find_rings();
        Ok(Outcome::Done)
    }

    /// Nothing runs, and nothing is agreed on but the protocol. Where the rings were is kept: some hypervisors ask for it
    /// afterwards (QEMU 7.2). So is what tells of errors, which is said once only.
    fn reset(&mut self, rings: &mut Rings) {
        for (index, queue) in rings.queues.iter_mut().enumerate() {
            queue.leave();
            self.polling.extend(queue.kick.take().map(|fd| Watch::End(fd, index)));
            *queue = Queue { base: queue.base, error: queue.error.take(), ..Queue::default() };
        }
        rings.features = 0;
        rings.log = None;
    }

    /// The connection has ended.
    pub fn forget(&mut self, rings: &mut Rings) {
        self.reset(rings);
        rings.queues = Default::default();
        (self.protocol, self.status) = (0, 0);
        rings.memory = Arc::default();
    }

    fn set_kick(&mut self, rings: &mut Rings, request: &mut Request) -> Result<(), String> {
        let index = number(request)? as usize & INDEX_MASK;
        let (queue, fd) = rings.queue_fd(request)?;
        let fd = fd.ok_or("to look into the ring all the time is not supported")?;
        event::check(&fd).map_err(|e| e.to_string())?;
        let begin = Watch::Begin(fd.as_raw_fd(), index);
        let old = queue.kick.replace(fd);
        queue.started = true;
        self.polling.extend(old.map(|fd| Watch::End(fd, index)));
        self.polling.push(begin);
        Ok(())
    }

    fn stop(&mut self, rings: &mut Rings, request: &Request) -> Result<Outcome, String> {
        let [index, _] = request.u32s().ok_or("it has the wrong length")?;
        let queue = rings.queues.get_mut(index as usize).ok_or_else(|| no_ring(index))?;
        queue.leave();
        queue.started = false;
        let base = queue.base;
        self.polling.extend(queue.kick.take().map(|fd| Watch::End(fd, index as usize)));
        queue.call = None;
        let mut body = Vec::with_capacity(8);
        [index, u32::from(base)].iter().for_each(|n| body.extend(n.to_ne_bytes()));
        Ok(Outcome::Answer(body))
    }
}

/// What of it is said about memory and rings.
impl Rings {
    fn set_features(&mut self, features: u64) -> Result<(), String> {
        self.features = known(features, FEATURES)?;
        if !self.has(PROTOCOL_FEATURES) {
            self.queues.iter_mut().for_each(|q| q.enabled = true);
        }
        Ok(())
    }

    fn set_memory(&mut self, request: &mut Request) -> Result<(), String> {
        let body = request.body();
        let count = body.first_chunk().map_or(0, |n| u32::from_ne_bytes(*n)) as usize;
        if count != request.fds.len() || count > REGIONS || body.len() != 8 + 32 * count {
            let (fds, len) = (request.fds.len(), body.len());
            return Err(format!("{count} regions with {fds} descriptors in {len} bytes"));
        }
        let mut memory = GuestMemory::default();
        let fds = std::mem::take(&mut request.fds);
        for (i, fd) in fds.into_iter().enumerate() {
            let region = request.u64s_from(8 + 32 * i).ok_or("it is too short")?;
            memory = add(&memory, region, fd)?;
        }
        self.replace(memory);
        Ok(())
    }

    fn add_memory(&mut self, request: &mut Request) -> Result<(), String> {
        let fd = request.fd().ok_or("it needs one descriptor")?;
        let [_, region @ ..]: [u64; 5] = request.u64s().ok_or("it has the wrong length")?;
        let [guest, len, user, _] = region;
        // QEMU 7.2 says it once for each pair of queues.
        if self.memory.has(guest, user, len) {
            return Ok(());
        }
        if self.memory.regions() >= REGIONS {
            return Err(format!("there are {REGIONS} regions already"));
        }
        let memory = add(&self.memory, region, fd)?;
        self.replace(memory);
        Ok(())
    }

    fn remove_memory(&mut self, request: &Request) -> Result<(), String> {
        let [_, guest, len, user, _]: [u64; 5] = request.u64s().ok_or("it has the wrong length")?;
        // The same goes for what is removed.
        if let Some(memory) = self.memory.without(guest, user, len) {
            self.replace(memory);
        }
        Ok(())
    }

    /// The rings are found again in the new memory.
    fn replace(&mut self, memory: GuestMemory) {
        self.memory = Arc::new(memory);
        self.queues.iter_mut().for_each(Queue::leave);
    }

    fn set_log(&mut self, request: &mut Request) -> Result<(), String> {
        let fd = request.fd().ok_or("it needs one descriptor")?;
        let [len, offset] = request.u64s().ok_or("it has the wrong length")?;
        let log = DirtyLog::map(fd, offset, len).map_err(|e| e.to_string())?;
        self.log = Some(Arc::new(log));
        Ok(())
    }

    fn set_addresses(&mut self, request: &Request) -> Result<(), String> {
        let [descriptors, used, available, log] = request.u64s_from(8).ok_or("it has the wrong length")?;
        let [index, flags] = request.body().as_chunks().0[..2] else { return Err("it has the wrong length".into()) };
        let (index, flags) = (u32::from_ne_bytes(index), u32::from_ne_bytes(flags));
        let queue = self.queue(index)?;
        let log = (flags & ADDR_LOG != 0).then_some(log);
        // Longer than any ring.
        if let Some(log) = log.filter(|log| log.checked_add(1 << 20).is_none()) {
            return Err(format!("there is nothing at {log:#x} to be logged"));
        }
        queue.at = Some(Addresses { descriptors, available, used, log });
        queue.leave();
        Ok(())
    }

    /// Rings that were told to run and have all that it takes.
    fn find_rings(&mut self) {
        let event_index = self.has(EVENT_INDEX);
        for (i, queue) in self.queues.iter_mut().enumerate().filter(|(_, q)| q.started && q.ring.is_none()) {
            let Some(at) = queue.at.filter(|_| queue.num > 0 && self.features & VERSION_1 != 0) else { continue };
            let direction = if i % 2 == 0 { Direction::ToGuest } else { Direction::FromGuest };
            queue.ring = Ring::map(&self.memory, &at, (queue.num, queue.base), event_index, direction);
        }
    }

    fn queue(&mut self, index: u32) -> Result<&mut Queue, String> {
        self.queues.get_mut(index as usize).ok_or_else(|| no_ring(index))
    }

    /// For requests about a ring and a number.
    fn state(&mut self, request: &Request) -> Result<(&mut Queue, u32), String> {
        let [index, number] = request.u32s().ok_or("it has the wrong length")?;
        Ok((self.queue(index)?, number))
    }

    /// For requests about a ring and a descriptor that we write to, or none.
    fn event(&mut self, request: &mut Request) -> Result<(&mut Queue, Option<OwnedFd>), String> {
        let (queue, fd) = self.queue_fd(request)?;
        fd.iter().try_for_each(event::prepare).map_err(|e| e.to_string())?;
        Ok((queue, fd))
    }

    /// For requests about a ring and a descriptor, or none.
    fn queue_fd(&mut self, request: &mut Request) -> Result<(&mut Queue, Option<OwnedFd>), String> {
        let word = number(request)?;
        let fd = request.fd();
        if fd.is_some() == (word & NO_FD != 0) {
            return Err("it has to have one descriptor, or to say that there is none".into());
        }
        Ok((self.queue((word as usize & INDEX_MASK) as u32)?, fd))
    }
}

/// Of the number that comes with a descriptor: which ring, and that there is no descriptor.
const INDEX_MASK: usize = 0xff;
const NO_FD: u64 = 0x100;
/// Of SET_VRING_ADDR: writes to the used ring are to be logged.
const ADDR_LOG: u32 = 1;

fn add(memory: &GuestMemory, [guest, len, user, offset]: [u64; 4], fd: OwnedFd) -> Result<GuestMemory, String> {
    let region = Region::map(fd, offset, len, guest, user);
    let all = region.and_then(|region| memory.with(region));
    all.map_err(|e| format!("the region of {len} bytes at {guest:#x}: {e}"))
}

fn number(request: &Request) -> Result<u64, String> {
    let [number] = request.u64s().ok_or("it has the wrong length")?;
    Ok(number)
}

fn known(bits: u64, offered: u64) -> Result<u64, String> {
    match bits & !offered {
        0 => Ok(bits),
        unknown => Err(format!("bits {unknown:#x} were not offered")),
    }
}

fn no_ring(index: u32) -> String {
    format!("there is no ring {index}")
}

fn answer(number: u64) -> Outcome {
    Outcome::Answer(number.to_ne_bytes().to_vec())
}

#[cfg(test)]
mod tests;
