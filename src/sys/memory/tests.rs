use std::io::Write;
use std::os::fd::AsFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::*;

/// A file of that many bytes, each of the value of its page's number.
fn file(pages: u8) -> OwnedFd {
    let fd = memfd_create(c"memory", MFdFlags::MFD_CLOEXEC).unwrap();
    let mut file = File::from(fd);
    for page in 0..pages {
        file.write_all(&[page; 4096]).unwrap();
    }
    file.into()
}

/// Guest addresses 0x1000 to 0x3000 and 0x3000 to 0x4000, by the hypervisor 0x7000_1000 and 0x9000_0000.
fn memory() -> GuestMemory {
    let first = Region::map(file(3), 0x1000, 0x2000, 0x1000, 0x7000_1000).unwrap();
    let second = Region::map(file(1), 0, 0x1000, 0x3000, 0x9000_0000).unwrap();
    GuestMemory::default().with(second).unwrap().with(first).unwrap()
}

fn pieces(memory: &GuestMemory, at: u64, len: usize) -> Option<Vec<(u64, usize)>> {
    let mut found = Vec::new();
    memory.pieces(at, len, |p| found.push((memory.address(p), p.len()))).then_some(found)
}

#[test]
fn addresses_are_translated_across_regions() {
    let memory = memory();
    assert_eq!(memory.read::<2>(0x1fff), Some([1, 2]));
    assert_eq!(memory.read::<1>(0x3000), Some([0]));
    assert_eq!(pieces(&memory, 0x2ff0, 0x20), Some(vec![(0x2ff0, 0x10), (0x3000, 0x10)]));
    assert_eq!(pieces(&memory, 0x1000, 0), Some(vec![]));
}

#[test]
fn what_is_not_there_is_not_read() {
    let memory = memory();
    for (at, len) in [(0, 1), (0xfff, 2), (0x3fff, 2), (0x4000, 1), (u64::MAX, 1), (0x1000, usize::MAX)] {
        assert_eq!(pieces(&memory, at, len), None, "{at:#x} {len:#x}");
    }
    assert_eq!(memory.read::<2>(0x2fff), None);
    assert_eq!(memory.read::<16>(u64::MAX - 3), None);
}

#[test]
fn windows_lie_in_one_region_and_are_aligned() {
    let memory = memory();
    assert_eq!(memory.window(0x7000_1ffe, 4, 2).unwrap().guest(), 0x1ffe);
    for (user, len, align) in
        [(0x7000_2ffe, 4, 2), (0x7000_1001, 2, 2), (0x7000_0fff, 1, 1), (0x9000_1000, 1, 1), (0x9000_0004, 16, 8)]
    {
        assert!(memory.window(user, len, align).is_none(), "{user:#x}");
    }
    let window = memory.window(0x9000_0000, 8, 8).unwrap();
    window.store_u16(6, 0x1234, Ordering::Release);
    assert_eq!((memory.read(0x3006), window.load_u16(6, Ordering::Acquire)), (Some([0x34, 0x12]), 0x1234));
    window.write(0, [9; 4]);
    assert_eq!(window.read::<6>(0), [9, 9, 9, 9, 0, 0]);
}

#[test]
fn regions_that_overlap_or_reach_too_far_are_refused() {
    let memory = memory();
    for at in [0x0001, 0x1000, 0x2fff, 0x3fff] {
        let region = Region::map(file(1), 0, 0x1000, at, 0).unwrap();
        assert!(memory.with(region).is_err(), "{at:#x}");
    }
    let bad = [(0, 0, 0), (0, 4097, 0), (4096, 1, 0), (u64::MAX, 1, 0), (0, u64::MAX, 0), (0, 4096, u64::MAX - 100)];
    for (offset, len, guest) in bad {
        assert!(Region::map(file(1), offset, len, guest, 0).is_err(), "{offset} {len} {guest}");
    }
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    assert!(Region::map(reader, 0, 4096, 0, 0).is_err());
}

#[test]
fn a_region_is_removed_by_all_that_it_is_called() {
    let memory = memory();
    assert!(memory.without(0x1000, 0x7000_1000, 0x1000).is_none());
    let less = memory.without(0x1000, 0x7000_1000, 0x2000).unwrap();
    assert_eq!((less.regions(), less.read::<1>(0x1000), less.read::<1>(0x3000)), (1, None, Some([0])));
    // Who still has the old one can use it.
    assert_eq!(memory.read::<1>(0x1000), Some([1]));
}

#[test]
fn memory_that_is_taken_away_is_noticed() {
    let file = file(2);
    let again = file.as_fd().try_clone_to_owned().unwrap();
    let memory = GuestMemory::default().with(Region::map(again, 0, 0x2000, 0, 0).unwrap()).unwrap();
    let window = memory.window(0x1000, 4, 4).unwrap();
    assert!(!memory.is_lost());
    ftruncate(&file, 0).unwrap();
    assert_eq!(window.read::<4>(0), [0; 4]);
    window.store_u16(0, 7, Ordering::Release);
    assert!(memory.is_lost());
    // For the kernel it is memory like any other.
    let (_, writer) = nix::unistd::pipe().unwrap();
    memory.pieces(0x10, 16, |p| {
        let _ = crate::sys::socket::send(writer.as_fd(), &[memory.gather(p)]);
    });
}

#[test]
fn pages_written_are_marked() {
    let file = file(1);
    let log = DirtyLog::map(file.try_clone().unwrap(), 0, 16).unwrap();
    log.mark(0x1000, 0);
    log.mark(0x2fff, 2);
    log.mark(0x9000, 1);
    // Beyond its end.
    log.mark(0x1000 * 8 * 16, 1);
    let mut bytes = [0; 17];
    std::os::unix::fs::FileExt::read_at(&File::from(file), &mut bytes, 0).unwrap();
    assert_eq!(bytes[..3], [0b1100, 0b10, 0]);
    assert!(bytes.iter().skip(3).all(|b| *b == 0));
}

#[test]
fn lent_pieces_keep_their_memory() {
    let memory = Arc::new(memory());
    let mut lent = Lent::default();
    memory.pieces(0x2fff, 2, |p| lent.push(&memory, p));
    drop(memory);
    let mut copy = Vec::new();
    lent.get(0, 2).iter().for_each(|p| p.copy_to(&mut copy));
    assert_eq!(copy, [2, 0]);
}
