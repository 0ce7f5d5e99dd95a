//! A hypervisor and its guest's driver, for tests: what they would say and do, and nothing that they should.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::FrontendReq;

use crate::sys::fdpass;

pub const MEMORY: u64 = 4 << 20;
pub const USER: u64 = 0x7f00_0000_0000;
pub const NUM: u16 = 256;

/// Offsets of the parts of ring `n`, and of its buffers.
const RING: u64 = 0x10000;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;
const BUFFERS: u64 = 0x10_0000;
/// Between the buffers of one ring.
pub const STRIDE: u64 = 0x1000;

/// The other end of a [`super::Vhost`].
pub struct Driver {
    pub socket: UnixStream,
    pub memory: File,
    pub kicks: Vec<EventFd>,
    calls: Vec<EventFd>,
    /// How many entries of each ring were offered, and how many came back.
    offered: Vec<u16>,
    seen: Vec<u16>,
}

impl Driver {
    /// Says everything that makes a card of one pair, with these features.
    pub fn start(socket: UnixStream, features: u64) -> Driver {
        Driver::start_pairs(socket, features, 1)
    }

    /// The same with this many pairs.
    pub fn start_pairs(socket: UnixStream, features: u64, pairs: usize) -> Driver {
        let rings = 2 * pairs;
        let fd: OwnedFd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
        let memory = File::from(fd);
        let len = MEMORY * pairs as u64;
        memory.set_len(len).unwrap();
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
        let driver = Driver {
            socket,
            memory,
            kicks: (0..rings).map(|_| event()).collect(),
            calls: (0..rings).map(|_| event()).collect(),
            offered: vec![0; rings],
            seen: vec![0; rings],
        };
        driver.say(FrontendReq::SET_FEATURES, &u64s(&[features]), &[]);
        let table = [u32s(&[1, 0]), u64s(&[0, len, USER, 0])].concat();
        driver.say(FrontendReq::SET_MEM_TABLE, &table, &[driver.memory.as_fd().try_clone_to_owned().unwrap()]);
        for ring in 0..rings as u32 {
            driver.say(FrontendReq::SET_VRING_NUM, &u32s(&[ring, NUM.into()]), &[]);
            driver.say(FrontendReq::SET_VRING_BASE, &u32s(&[ring, 0]), &[]);
            driver.say(FrontendReq::SET_VRING_ADDR, &addresses(ring), &[]);
            let copy = |event: &EventFd| event.as_fd().try_clone_to_owned().unwrap();
            driver.say(FrontendReq::SET_VRING_KICK, &u64s(&[ring.into()]), &[copy(&driver.kicks[ring as usize])]);
            driver.say(FrontendReq::SET_VRING_CALL, &u64s(&[ring.into()]), &[copy(&driver.calls[ring as usize])]);
            driver.say(FrontendReq::SET_VRING_ENABLE, &u32s(&[ring, 1]), &[]);
        }
        driver
    }

    pub fn say(&self, code: FrontendReq, body: &[u8], fds: &[OwnedFd]) {
        self.say_raw(&[u32s(&[code as u32, 1, body.len() as u32]), body.to_vec()].concat(), fds);
    }

    pub fn say_raw(&self, message: &[u8], fds: &[OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        fdpass::send_many(self.socket.as_fd(), message, &fds).unwrap();
    }

    /// Offers a chain of descriptors: address, length, and whether it is ours to write.
    pub fn offer(&mut self, ring: usize, chain: &[(u64, u32, bool)]) {
        let first = u64::from(self.offered[ring]) * 8 % u64::from(NUM);
        let base = ring as u64 * RING;
        for (i, (at, len, write)) in (0u64..).zip(chain) {
            let last = i + 1 == chain.len() as u64;
            let flags = u16::from(!last) | u16::from(*write) << 1;
            let next = (first + i + 1) as u16 % NUM;
            let raw = [&at.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat();
            self.put(base + 16 * ((first + i) % u64::from(NUM)), &raw);
        }
        let entry = base + AVAILABLE + 4 + 2 * u64::from(self.offered[ring] % NUM);
        self.put(entry, &(first as u16).to_le_bytes());
        self.offered[ring] = self.offered[ring].wrapping_add(1);
        self.put(base + AVAILABLE + 2, &self.offered[ring].to_le_bytes());
    }

    /// Offers a buffer of this many pieces of `len` bytes, in a table of its own, to be filled.
    pub fn offer_table(&mut self, pieces: u64, len: u32) {
        let table: Vec<u8> = (0..pieces)
            .flat_map(|i| {
                let at = 2 * BUFFERS + i * u64::from(len);
                let flags = u16::from(i + 1 < pieces) | 2;
                [&at.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &(i as u16 + 1).to_le_bytes()]
                    .concat()
            })
            .collect();
        self.put(BUFFERS, &table);
        let first = u64::from(self.offered[0]) * 8 % u64::from(NUM);
        self.offer(0, &[(BUFFERS, table.len() as u32, false)]);
        // VIRTQ_DESC_F_INDIRECT.
        self.put(16 * first + 12, &4u16.to_le_bytes());
    }

    /// Offers `n` buffers of `len` bytes to be filled.
    pub fn offer_room(&mut self, n: u64, len: u32) {
        self.offer_room_in(0, n, len);
    }

    /// The same in a ring.
    pub fn offer_room_in(&mut self, ring: usize, n: u64, len: u32) {
        for _ in 0..n {
            let at = own(ring) + BUFFERS + u64::from(self.offered[ring] % 32) * STRIDE * 16;
            self.offer(ring, &[(at, len, true)]);
        }
    }

    /// Sends a frame behind this header, in pieces of these lengths.
    pub fn send(&mut self, header: [u8; 12], frame: &[u8], pieces: &[usize]) {
        self.send_in(1, header, frame, pieces);
    }

    /// The same in a ring.
    pub fn send_in(&mut self, ring: usize, header: [u8; 12], frame: &[u8], pieces: &[usize]) {
        let all = [&header[..], frame].concat();
        let mut at = own(ring) + 2 * BUFFERS + u64::from(self.offered[ring] % 8) * 0x11000;
        let (mut chain, mut done) = (Vec::new(), 0);
        for len in pieces.iter().copied().chain([all.len() - pieces.iter().sum::<usize>()]).filter(|n| *n > 0) {
            self.put(at, &all[done..done + len]);
            chain.push((at, len as u32, false));
            done += len;
            at += len as u64 + 3;
        }
        self.offer(ring, &chain);
    }

    /// What came back since the last time: the first bytes of each buffer.
    pub fn used(&mut self, ring: usize) -> Vec<Vec<u8>> {
        let base = ring as u64 * RING;
        let index = u16::from_le_bytes(self.get(base + USED + 2, 2).try_into().unwrap());
        let mut all = Vec::new();
        while self.seen[ring] != index {
            let element = self.get(base + USED + 4 + 8 * u64::from(self.seen[ring] % NUM), 8);
            let (id, len) = element.split_at(4);
            let id = u32::from_le_bytes(id.try_into().unwrap());
            let len = u32::from_le_bytes(len.try_into().unwrap());
            let at = self.get(base + 16 * u64::from(id), 8);
            all.push(self.get(u64::from_le_bytes(at.try_into().unwrap()), len as usize));
            self.seen[ring] = self.seen[ring].wrapping_add(1);
        }
        all
    }

    /// How often it was told about a ring, since the last time.
    pub fn called(&self, ring: usize) -> u64 {
        self.calls[ring].read().unwrap_or(0)
    }

    /// Claims to have offered as much.
    pub fn put_available_index(&self, ring: usize, index: u16) {
        self.put(ring as u64 * RING + AVAILABLE + 2, &index.to_le_bytes());
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// The answer that waits, if there is one: its code and its body.
    pub fn answer(&self) -> Option<(u32, Vec<u8>)> {
        let mut room = [0; 256];
        let mut fds = Vec::new();
        let n = fdpass::recv_now(self.socket.as_fd(), &mut room, &mut fds).ok().filter(|n| *n >= 12)?;
        Some((u32::from_ne_bytes(room[..4].try_into().unwrap()), room[12..n].to_vec()))
    }

    pub fn is_closed(&self) -> bool {
        let mut room = [0; 1];
        nix::sys::socket::recv(self.socket.as_raw_fd(), &mut room, nix::sys::socket::MsgFlags::MSG_DONTWAIT) == Ok(0)
    }
}

/// Where the buffers of a pair are counted from. All rings are in the first of these parts of the memory.
fn own(ring: usize) -> u64 {
    ring as u64 / 2 * MEMORY
}

/// Where the parts of a ring are, as that is said.
pub fn addresses(ring: u32) -> Vec<u8> {
    let at = USER + u64::from(ring) * RING;
    [u32s(&[ring, 0]), u64s(&[at, at + USED, at + AVAILABLE, 0])].concat()
}

pub fn u32s(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

pub fn u64s(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}
