//! The guest's end of its link, for engines that run as in the program: a socket of a virtual machine, or a vhost-user card with a
//! driver that does nothing wrong.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};

use spelt::link::{Link, Socket, Tee, Vhost};
use spelt::sys::unix::Kind;

use super::vhost::{self, AVAILABLE, NUM, RING, USED};

pub enum Wire {
    Socket(UnixDatagram),
    Card(Box<Driver>),
}

impl Wire {
    /// The program's end and the guest's.
    pub fn new(card: bool, mtu: u16) -> (Link, Wire) {
        if card {
            let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
            let link = Link::Vhost(Box::new(Vhost::connected(ours.into(), mtu, Tee::default())));
            return (link, Wire::Card(Box::new(Driver::new(theirs))));
        }
        let (ours, guest) = UnixDatagram::pair().expect("a pair of sockets");
        guest.set_nonblocking(true).expect("a socket");
        let link = Socket::connected(OwnedFd::from(ours), Kind::Datagram, mtu, Tee::default());
        (Link::Socket(Box::new(link)), Wire::Socket(guest))
    }

    /// False: it is too long, or there is no room.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        match self {
            Wire::Socket(socket) => socket.send(frame).is_ok(),
            Wire::Card(driver) => driver.send(frame),
        }
    }

    /// The next frame, if there is one.
    pub fn recv(&mut self, room: &mut [u8]) -> Option<usize> {
        match self {
            Wire::Socket(socket) => socket.recv(room).ok(),
            Wire::Card(driver) => driver.recv(room),
        }
    }
}

/// A card of one pair, without offloads.
pub struct Driver {
    _socket: UnixStream,
    memory: File,
    kicks: [File; 2],
    offered: [u16; 2],
    seen: [u16; 2],
}

const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
/// Where the buffers of a ring are, and how far apart.
const BUFFERS: [u64; 2] = [0x10000, 0x40000];
const STRIDE: usize = 0x800;
const HEADER: usize = 12;
const VERSION_1: u64 = 1 << 32;

impl Driver {
    fn new(socket: UnixStream) -> Driver {
        let memory = vhost::memory();
        let kicks = vhost::start(&socket, &memory, VERSION_1);
        let (memory, kicks) = (File::from(memory), kicks.map(File::from));
        let mut driver = Driver { _socket: socket, memory, kicks, offered: [0; 2], seen: [0; 2] };
        (0..NUM as u16).for_each(|buffer| driver.offer(TO_GUEST, buffer, STRIDE));
        driver
    }

    fn offer(&mut self, ring: usize, buffer: u16, len: usize) {
        let (base, at) = (ring as u64 * RING, BUFFERS[ring] + u64::from(buffer) * STRIDE as u64);
        let writable = u16::from(ring == TO_GUEST) << 1;
        let descriptor =
            [&at.to_le_bytes()[..], &(len as u32).to_le_bytes(), &writable.to_le_bytes(), &[0; 2]].concat();
        self.put(base + 16 * u64::from(buffer), &descriptor);
        let place = u64::from(self.offered[ring]) % u64::from(NUM);
        self.put(base + AVAILABLE + 4 + 2 * place, &buffer.to_le_bytes());
        self.offered[ring] = self.offered[ring].wrapping_add(1);
        self.put(base + AVAILABLE + 2, &self.offered[ring].to_le_bytes());
        self.kicks[ring].write_all(&1u64.to_ne_bytes()).expect("an event");
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        let waiting = self.offered[FROM_GUEST].wrapping_sub(self.used(FROM_GUEST));
        let len = HEADER + frame.len();
        if u32::from(waiting) == NUM || len > STRIDE {
            return false;
        }
        let buffer = self.offered[FROM_GUEST] % NUM as u16;
        self.put(BUFFERS[FROM_GUEST] + u64::from(buffer) * STRIDE as u64, &[&[0; HEADER], frame].concat());
        self.offer(FROM_GUEST, buffer, len);
        true
    }

    fn recv(&mut self, room: &mut [u8]) -> Option<usize> {
        let used = self.used(TO_GUEST);
        if used == self.seen[TO_GUEST] {
            return None;
        }
        assert!(used.wrapping_sub(self.seen[TO_GUEST]) <= NUM as u16, "more came back than was lent");
        let place = u64::from(self.seen[TO_GUEST]) % u64::from(NUM);
        let element: [u8; 8] = self.get(USED + 4 + 8 * place);
        let number = |at: usize| u32::from_le_bytes([element[at], element[at + 1], element[at + 2], element[at + 3]]);
        let (buffer, len) = (number(0), number(4) as usize);
        assert!(buffer < NUM && (HEADER..=STRIDE).contains(&len), "{len} bytes in buffer {buffer}");
        let at = BUFFERS[TO_GUEST] + u64::from(buffer) * STRIDE as u64;
        assert_eq!(self.get::<HEADER>(at), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "nothing is left to the driver");
        let frame = &mut room[..len - HEADER];
        self.memory.read_exact_at(frame, at + HEADER as u64).expect("memory");
        self.seen[TO_GUEST] = self.seen[TO_GUEST].wrapping_add(1);
        self.offer(TO_GUEST, buffer as u16, STRIDE);
        Some(len - HEADER)
    }

    /// How many entries of a ring have come back.
    fn used(&self, ring: usize) -> u16 {
        u16::from_le_bytes(self.get(ring as u64 * RING + USED + 2))
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).expect("memory");
    }

    fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_exact_at(&mut bytes, at).expect("memory");
        bytes
    }
}
