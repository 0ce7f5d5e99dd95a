//! What a hypervisor could say, and what a guest could write into its rings: bytes of any kind, given to the vhost-user link.
//! Used by the fuzz targets, and by `test/corpora.rs` on what they have found.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use spelt::base::Instant;
use spelt::guest::{Areas, Fill, Reservation, ToGuest};
use spelt::link::{Batch, Input, Talk, Tee, Vhost};
use spelt::sys::fdpass;
use spelt::wire::Offload;

const MEMORY: u64 = 1 << 20;
const USER: u64 = 0x7f00_0000_0000;
/// Entries of a ring, and where its parts are: 16 bytes for each descriptor, then what the driver offers, then what is used.
pub const NUM: u32 = 64;
pub const AVAILABLE: u64 = 0x800;
pub const USED: u64 = 0xc00;
pub const RING: u64 = 0x1000;

/// A session as the bytes say: portions, each behind the number of its descriptors and its length.
pub fn messages(data: &[u8]) {
    let (mut link, socket) = connected();
    let (memory, event) = (memory(), event());
    let mut rest = data;
    while let [fds, len, tail @ ..] = rest {
        let portion = tail.len().min(usize::from(*len));
        let kinds: [BorrowedFd<'_>; 2] = [memory.as_fd(), event.as_fd()];
        let with: Vec<_> = (0..fds & 7).map(|i| kinds[usize::from(fds >> (3 + i % 5)) & 1]).collect();
        if portion > 0 && fdpass::send_many(socket.as_fd(), &tail[..portion], &with).is_err() {
            break;
        }
        rest = &tail[portion..];
        if !settle(&mut link) {
            return;
        }
        work(&mut link);
        // Answers are read, or there would soon be no room for them.
        let mut room = [0; 4096];
        let _ = fdpass::recv_now(socket.as_fd(), &mut room, &mut Vec::new());
    }
    drop(socket);
    settle(&mut link);
}

/// A session as it should be, with these bytes in the rings.
pub fn rings(data: &[u8]) {
    let [features, data @ ..] = data else { return };
    let (mut link, socket) = connected();
    let memory = memory();
    start(&socket, &memory, u64::from(features & 1) << 15 | u64::from(features >> 1 & 1) << 29 | 1 << 32);
    assert!(settle(&mut link));
    let file = File::from(memory);
    for piece in data.chunks(2 * RING as usize) {
        file.write_all_at(piece, 0).expect("memory takes what is written");
        work(&mut link);
    }
}

fn connected() -> (Vhost, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    (Vhost::connected(ours.into(), 1500, Tee::default()), theirs)
}

pub fn memory() -> OwnedFd {
    let file = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).expect("memory"));
    file.set_len(MEMORY).expect("memory");
    file.into()
}

fn event() -> OwnedFd {
    EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("an event descriptor").into()
}

/// Lets the link hear everything that was said. False: it has had enough.
fn settle(link: &mut Vhost) -> bool {
    loop {
        let talk = link.converse(Instant::ZERO);
        drop(link.polling());
        match talk {
            Talk::More => {}
            Talk::Silence => return true,
            Talk::Gone => {
                link.disconnect(&mut Batch::new(), Instant::ZERO);
                return false;
            }
        }
    }
}

/// A few turns of a loop, with frames both ways.
fn work(link: &mut Vhost) {
    let mut batch = Batch::new();
    for _ in 0..4 {
        batch.clear();
        let input = link.receive(&mut batch);
        for frame in batch.frames() {
            assert!(frame.len() <= 1 << 17);
            frame.rest.iter().for_each(|piece| piece.copy_to(&mut Vec::new()));
        }
        link.release();
        link.writable();
        let _ = link.send(&[1; 60], Offload::NONE);
        if let Some(mut room) = Reservation::new(link, 3, 54, 4000, Fill::Stream) {
            let mut areas = Areas::new();
            room.areas(&mut areas);
            drop(areas);
            for len in [4000, 100, 100].into_iter().take(room.left()) {
                let _ = room.commit(&[2; 54], len, Offload::NONE);
            }
        }
        let _ = link.flush();
        if input != Input::More {
            break;
        }
    }
}

/// Says everything that makes a card of one pair; returns what the rings are kicked by.
pub fn start(socket: &UnixStream, memory: &OwnedFd, features: u64) -> [OwnedFd; 2] {
    let say = |code: u32, body: &[&[u8]], fds: &[BorrowedFd<'_>]| {
        let body = body.concat();
        let header = [code, 1, body.len() as u32].map(u32::to_ne_bytes).concat();
        fdpass::send_many(socket.as_fd(), &[header, body].concat(), fds).expect("a socket with room");
    };
    let pair = |a: u32, b: u32| [a, b].map(u32::to_ne_bytes).concat();
    let numbers = |list: &[u64]| list.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
    say(2, &[&numbers(&[features])], &[]);
    say(5, &[&pair(1, 0), &numbers(&[0, MEMORY, USER, 0])], &[memory.as_fd()]);
    let kicks = [event(), event()];
    for (ring, kick) in (0..2u32).zip(&kicks) {
        let at = USER + u64::from(ring) * RING;
        say(8, &[&pair(ring, NUM)], &[]);
        say(10, &[&pair(ring, 0)], &[]);
        say(9, &[&pair(ring, 0), &numbers(&[at, at + USED, at + AVAILABLE, 0])], &[]);
        say(12, &[&numbers(&[ring.into()])], &[kick.as_fd()]);
        say(13, &[&numbers(&[ring.into()])], &[event().as_fd()]);
    }
    kicks
}
