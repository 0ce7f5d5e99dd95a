//! Against the driver's side of `virtio-queue`, and against drivers that mean no good.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::prelude::*;
use virtio_queue::desc::{RawDescriptor, split::Descriptor as Split};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;
use crate::sys::memory::Region;

const SIZE: usize = 1 << 20;
/// What guest addresses are by the hypervisor's reckoning.
const USER: u64 = 0x7f00_0000_0000;
const NUM: u16 = 16;
/// Where the used ring is if both sides name events.
const USED: u64 = 0x4000;

/// One memory, as the driver sees it and as we do.
struct World {
    driver: GuestMemoryMmap,
    ours: GuestMemory,
    file: File,
}

impl World {
    fn new() -> World {
        let fd: OwnedFd = memfd_create(c"ring", MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(SIZE as u64).unwrap();
        let range = (GuestAddress(0), SIZE, Some(vm_memory::FileOffset::new(file.try_clone().unwrap(), 0)));
        let region = Region::map(file.try_clone().unwrap().into(), 0, SIZE as u64, 0, USER).unwrap();
        World {
            driver: GuestMemoryMmap::from_ranges_with_files([range]).unwrap(),
            ours: GuestMemory::default().with(region).unwrap(),
            file,
        }
    }

    fn queue(&self) -> MockSplitQueue<'_, GuestMemoryMmap> {
        MockSplitQueue::create(&self.driver, GuestAddress(0), NUM)
    }

    fn ring(&self, queue: &MockSplitQueue<'_, GuestMemoryMmap>, events: bool, direction: Direction) -> Ring {
        let at = Addresses {
            descriptors: USER + queue.desc_table_addr().0,
            available: USER + queue.avail_addr().0,
            // The driver of these tests has its used ring where the other ring's last field is.
            used: USER + if events { USED } else { queue.used_addr().0 },
            log: None,
        };
        Ring::map(&self.ours, &at, (NUM, 0), events, direction).unwrap()
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    fn read_u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }
}

fn descriptor(at: u64, len: u32, flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor::from(Split::new(at, len, flags, next))
}

/// Chains taken, and the lengths of the pieces of each.
fn take_all(ring: &mut Ring, memory: &GuestMemory) -> Vec<(u16, Vec<usize>)> {
    let mut all = Vec::new();
    let mut pieces = Vec::new();
    while let Some(chain) = ring.take(memory, &mut pieces).unwrap() {
        let lens: Vec<usize> = pieces.drain(..).map(|p| p.len()).collect();
        assert_eq!(chain.len, lens.iter().sum::<usize>());
        all.push((chain.id, lens));
    }
    all
}

#[test]
fn chains_are_taken_and_come_back_in_order() {
    let world = World::new();
    let queue = world.queue();
    let mut ring = world.ring(&queue, false, Direction::FromGuest);
    assert!(take_all(&mut ring, &world.ours).is_empty());
    let descriptors = [
        descriptor(0x10000, 12, NEXT, 1),
        descriptor(0x20000, 100, 0, 0),
        descriptor(0x30000, 60, 0, 0),
        descriptor(0x40000, 7, 0, 0),
    ];
    queue.add_desc_chains(&descriptors, 0).unwrap();
    assert_eq!(take_all(&mut ring, &world.ours), [(0, vec![12, 100]), (2, vec![60]), (3, vec![7])]);
    ring.done(0, 0, None);
    ring.done(2, 5, None);
    assert_eq!(queue.used().idx().load(), 0);
    assert!(ring.publish(None));
    assert_eq!(queue.used().idx().load(), 2);
    let used = queue.used().ring().ref_at(1).unwrap().load();
    assert_eq!((used.id(), used.len()), (2, 5));
    assert!(!ring.publish(None));
    assert_eq!(ring.base(), 3);
}

#[test]
fn indirect_tables_are_followed() {
    let world = World::new();
    let queue = world.queue();
    let mut ring = world.ring(&queue, false, Direction::ToGuest);
    let entry = |at: u64, flags: u16, next: u16| {
        [&at.to_le_bytes()[..], &50u32.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
    };
    world.write(0x8000, &[entry(0x10000, NEXT | WRITE, 2), entry(0, 0, 0), entry(0x20000, WRITE, 0)].concat());
    queue.add_desc_chains(&[descriptor(0x8000, 48, INDIRECT, 0)], 0).unwrap();
    assert_eq!(take_all(&mut ring, &world.ours), [(0, vec![50, 50])]);
}

#[test]
fn chains_that_make_no_sense_have_no_bytes() {
    let table = |flags: u16| {
        let entry = [&0x10000u64.to_le_bytes()[..], &50u32.to_le_bytes(), &flags.to_le_bytes(), &[0; 2]].concat();
        (0x8000u64, entry)
    };
    let cases: [(&str, Vec<RawDescriptor>, u16); 9] = [
        ("outside", vec![descriptor(SIZE as u64 - 1, 2, 0, 0)], 0),
        ("end of all addresses", vec![descriptor(u64::MAX, 2, 0, 0)], 0),
        ("loop", vec![descriptor(0x10000, 8, NEXT, 1), descriptor(0x10000, 8, NEXT, 0)], 0),
        ("no such successor", vec![descriptor(0x10000, 8, NEXT, NUM)], 0),
        ("ours to write", vec![descriptor(0x10000, 8, WRITE, 0)], 0),
        ("table of odd length", vec![descriptor(0x8000, 17, INDIRECT, 0)], 0),
        ("empty table", vec![descriptor(0x8000, 0, INDIRECT, 0)], 0),
        ("table with a successor", vec![descriptor(0x8000, 16, INDIRECT | NEXT, 0)], 0),
        ("table in a table", vec![descriptor(0x8000, 16, INDIRECT, 0)], INDIRECT),
    ];
    for (what, descriptors, inner) in cases {
        let world = World::new();
        let queue = world.queue();
        let mut ring = world.ring(&queue, false, Direction::FromGuest);
        let (at, entry) = table(inner);
        world.write(at, &entry);
        for (i, d) in (0u16..).zip(&descriptors) {
            queue.desc_table().store(i, *d).unwrap();
        }
        world.write(queue.avail_addr().0 + 2, &1u16.to_le_bytes());
        let mut pieces = Vec::new();
        let taken = ring.take(&world.ours, &mut pieces);
        assert_eq!((taken, pieces.len()), (Ok(Some(Chain { id: 0, len: 0, entries: 0 })), 0), "{what}");
    }
}

#[test]
fn an_index_that_jumps_breaks_the_ring() {
    for jump in [NUM + 1, 200, 0xffff] {
        let world = World::new();
        let queue = world.queue();
        let mut ring = world.ring(&queue, false, Direction::FromGuest);
        world.write(queue.avail_addr().0 + 2, &jump.to_le_bytes());
        assert_eq!(ring.take(&world.ours, &mut Vec::new()), Err(Broken));
        assert_eq!(ring.listen(None), Err(Broken));
    }
}

#[test]
fn a_head_that_is_no_descriptor_has_no_bytes() {
    let world = World::new();
    let queue = world.queue();
    let mut ring = world.ring(&queue, false, Direction::FromGuest);
    world.write(queue.avail_addr().0 + 2, &[1, 0, 0xff, 0xff]);
    assert_eq!(ring.take(&world.ours, &mut Vec::new()), Ok(Some(Chain { id: 0xffff, len: 0, entries: 0 })));
}

#[test]
fn nobody_is_told_who_does_not_want_to_hear() {
    let world = World::new();
    let queue = world.queue();
    let mut ring = world.ring(&queue, false, Direction::FromGuest);
    world.write(queue.avail_addr().0, &NO_NOTIFICATION.to_le_bytes());
    ring.done(0, 0, None);
    assert!(!ring.publish(None));
    world.write(queue.avail_addr().0, &[0, 0]);
    // What it did not want to hear of is not told later.
    assert!(!ring.publish(None));
    ring.done(1, 0, None);
    assert!(ring.publish(None));
    ring.ignore(None);
    assert_eq!(world.read_u16(queue.used_addr().0), NO_NOTIFICATION);
    assert_eq!(ring.listen(None), Ok(false));
    assert_eq!(world.read_u16(queue.used_addr().0), 0);
}

/// Virtio 1.2 §2.7.7.2: the driver hears of it when the index passes the one that it has named.
#[test]
fn with_event_indexes_only_the_one_that_is_named_counts() {
    let world = World::new();
    let queue = world.queue();
    let mut ring = world.ring(&queue, true, Direction::FromGuest);
    let name = |index: u16| world.write(queue.avail_addr().0 + 4 + 2 * u64::from(NUM), &index.to_le_bytes());
    name(2);
    for (done, told) in [(1, false), (1, false), (1, true), (2, false)] {
        (0..done).for_each(|_| ring.done(0, 0, None));
        assert_eq!(ring.publish(None), told);
    }
    name(5);
    (0..3).for_each(|_| ring.done(0, 0, None));
    assert!(ring.publish(None));
    // The other way round.
    queue.add_desc_chains(&[descriptor(0x10000, 8, 0, 0)], 0).unwrap();
    assert_eq!(ring.listen(None), Ok(true));
    assert_eq!(world.read_u16(USED + 4 + 8 * u64::from(NUM)), 0);
    assert_eq!(ring.listen(None), Ok(false));
    assert_eq!(world.read_u16(USED + 4 + 8 * u64::from(NUM)), 1);
}

#[test]
fn what_is_written_is_logged() {
    let world = World::new();
    let queue = world.queue();
    let log_file = World::new().file;
    let log = DirtyLog::map(log_file.try_clone().unwrap().into(), 0, 4096).unwrap();
    let mut ring = world.ring(&queue, false, Direction::FromGuest);
    ring.log = Some(0x5000);
    ring.done(0, 0, Some(&log));
    ring.publish(Some(&log));
    let mut byte = [0];
    log_file.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1 << 5]);
}

proptest! {
    /// Whatever lies in the memory, nothing is reached that is not there, and nothing goes on for ever.
    #[test]
    fn any_driver_is_survived(
        bytes in proptest::collection::vec(any::<u8>(), 0x1000),
        small in any::<bool>(),
        events in any::<bool>(),
        direction in prop_oneof![Just(Direction::FromGuest), Just(Direction::ToGuest)],
    ) {
        let world = World::new();
        let queue = world.queue();
        let mut ring = world.ring(&queue, events, direction);
        let mut bytes = bytes;
        if small {
            // Descriptors that make some sense more often.
            for d in bytes.chunks_exact_mut(16).take(NUM.into()) {
                d[3..8].fill(0);
                d[10..12].fill(0);
                d[12] &= 7;
                d[13] = 0;
                d[14] &= 15;
                d[15] = 0;
            }
            let at = queue.avail_addr().0 as usize;
            bytes[at + 3] = 0;
            bytes[at + 2] &= 31;
        }
        world.write(0, &bytes);
        let mut pieces = Vec::new();
        for _ in 0..2 * NUM {
            match ring.take(&world.ours, &mut pieces) {
                Ok(Some(chain)) => ring.done(chain.id, chain.len as u32, None),
                Ok(None) | Err(Broken) => break,
            }
            prop_assert!(pieces.iter().all(|p| world.ours.address(*p) + p.len() as u64 <= SIZE as u64));
            pieces.clear();
        }
        ring.publish(None);
        let _ = ring.listen(None);
    }
}
