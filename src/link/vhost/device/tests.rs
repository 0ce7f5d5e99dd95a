use std::fs::File;

use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

const MEMORY: u64 = 1 << 20;
const USER: u64 = 0x7f00_0000_0000;
const FLAG_PROTOCOL: u64 = 1 << 30;

fn memory_file() -> OwnedFd {
    let fd = memfd_create(c"memory", MFdFlags::MFD_CLOEXEC).unwrap();
    let file = File::from(fd);
    file.set_len(MEMORY).unwrap();
    file.into()
}

fn event() -> OwnedFd {
    EventFd::new().unwrap().into()
}

fn u32s(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

fn u64s(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
}

/// A device and all of its rings.
struct Whole {
    device: Device,
    rings: Rings,
}

impl Whole {
    fn new() -> Whole {
        Whole { device: Device::default(), rings: Rings::whole() }
    }

    fn is_ready(&self) -> bool {
        self.rings.outlet() == (0, true)
    }
}

fn ask(whole: &mut Whole, code: FrontendReq, body: Vec<u8>, fds: Vec<OwnedFd>) -> Outcome {
    whole.device.handle(&mut whole.rings, &mut Request::for_test(code as u32, body, fds))
}

/// What is asked must be done.
fn done(whole: &mut Whole, code: FrontendReq, body: Vec<u8>, fds: Vec<OwnedFd>) {
    assert_eq!(ask(whole, code, body, fds), Outcome::Done, "{code:?}");
}

fn refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(_))
}

fn one_region() -> Vec<u8> {
    [u32s(&[1, 0]), u64s(&[0, MEMORY, USER, 0])].concat()
}

fn set_up(whole: &mut Whole, features: u64) {
    done(whole, FrontendReq::SET_FEATURES, u64s(&[features]), vec![]);
    done(whole, FrontendReq::SET_MEM_TABLE, one_region(), vec![memory_file()]);
}

fn start(whole: &mut Whole, ring: u32) {
    done(whole, FrontendReq::SET_VRING_NUM, u32s(&[ring, 256]), vec![]);
    done(whole, FrontendReq::SET_VRING_BASE, u32s(&[ring, 7]), vec![]);
    let at = USER + u64::from(ring) * 0x10000;
    let body = [u32s(&[ring, 0]), u64s(&[at, at + 0x2000, at + 0x1000, 0])].concat();
    done(whole, FrontendReq::SET_VRING_ADDR, body, vec![]);
    done(whole, FrontendReq::SET_VRING_CALL, u64s(&[ring.into()]), vec![event()]);
    done(whole, FrontendReq::SET_VRING_KICK, u64s(&[ring.into()]), vec![event()]);
}

fn running() -> Whole {
    let mut whole = Whole::new();
    set_up(&mut whole, VERSION_1 | FLAG_PROTOCOL);
    start(&mut whole, 0);
    start(&mut whole, 1);
    for ring in 0..2 {
        done(&mut whole, FrontendReq::SET_VRING_ENABLE, u32s(&[ring, 1]), vec![]);
    }
    whole
}

#[test]
fn a_device_runs_once_all_is_said() {
    let mut whole = running();
    assert!(whole.is_ready());
    assert_eq!(whole.device.polling.drain(..).filter(|p| matches!(p, Watch::Begin(_, 0 | 1))).count(), 2);
    let stopped = ask(&mut whole, FrontendReq::GET_VRING_BASE, u32s(&[1, 0]), vec![]);
    assert_eq!(stopped, Outcome::Answer(u32s(&[1, 7])));
    assert!(!whole.is_ready() && matches!(whole.device.polling[..], [Watch::End(_, 1)]));
}

#[test]
fn rings_are_found_in_whatever_order_things_are_said() {
    let mut whole = Whole::new();
    done(&mut whole, FrontendReq::SET_FEATURES, u64s(&[VERSION_1]), vec![]);
    start(&mut whole, 0);
    start(&mut whole, 1);
    assert!(!whole.is_ready());
    done(&mut whole, FrontendReq::SET_MEM_TABLE, one_region(), vec![memory_file()]);
    // Without protocol features rings are switched on from the start.
    assert!(whole.is_ready());
}

#[test]
fn rings_go_with_their_memory_and_come_back_where_they_were() {
    let mut whole = running();
    let region = u64s(&[0, 0, MEMORY, USER, 0]);
    done(&mut whole, FrontendReq::REM_MEM_REG, region.clone(), vec![]);
    assert!(!whole.is_ready());
    done(&mut whole, FrontendReq::ADD_MEM_REG, region, vec![memory_file()]);
    assert!(whole.is_ready());
    let base = ask(&mut whole, FrontendReq::GET_VRING_BASE, u32s(&[0, 0]), vec![]);
    assert_eq!(base, Outcome::Answer(u32s(&[0, 7])));
}

#[test]
fn switched_off_is_not_stopped() {
    let mut whole = running();
    done(&mut whole, FrontendReq::SET_VRING_ENABLE, u32s(&[1, 0]), vec![]);
    assert!(!whole.is_ready() && whole.rings.queues[1].ring.is_some());
    done(&mut whole, FrontendReq::SET_VRING_ENABLE, u32s(&[1, 1]), vec![]);
    assert!(whole.is_ready());
}

#[test]
fn what_was_not_offered_is_not_accepted() {
    let mut whole = Whole::new();
    assert_eq!(ask(&mut whole, FrontendReq::GET_FEATURES, vec![], vec![]), answer(FEATURES));
    assert!(refused(&ask(&mut whole, FrontendReq::SET_FEATURES, u64s(&[1 << 63]), vec![])));
    assert!(refused(&ask(&mut whole, FrontendReq::SET_PROTOCOL_FEATURES, u64s(&[1 << 40]), vec![])));
    assert!(!whole.device.acknowledges());
    done(&mut whole, FrontendReq::SET_PROTOCOL_FEATURES, u64s(&[PROTOCOL.bits()]), vec![]);
    assert!(whole.device.acknowledges());
}

/// QEMU 7.2 asks where the rings were after the reset, others before it.
#[test]
fn a_status_of_zero_resets_and_keeps_places() {
    for reset_first in [true, false] {
        let mut whole = running();
        done(&mut whole, FrontendReq::SET_STATUS, u64s(&[4]), vec![]);
        assert_eq!(ask(&mut whole, FrontendReq::GET_STATUS, vec![], vec![]), answer(4));
        if reset_first {
            done(&mut whole, FrontendReq::SET_STATUS, u64s(&[0]), vec![]);
            assert!(!whole.is_ready() && !whole.rings.has(VERSION_1));
        }
        for ring in 0..2 {
            let base = ask(&mut whole, FrontendReq::GET_VRING_BASE, u32s(&[ring, 0]), vec![]);
            assert_eq!(base, Outcome::Answer(u32s(&[ring, 7])));
        }
        done(&mut whole, FrontendReq::SET_STATUS, u64s(&[0]), vec![]);
        set_up(&mut whole, VERSION_1 | FLAG_PROTOCOL);
        start(&mut whole, 0);
    }
}

/// As QEMU 7.2 does, once for each pair of queues.
#[test]
fn memory_may_be_said_and_taken_back_more_than_once() {
    let mut whole = running();
    let region = u64s(&[0, 0, MEMORY, USER, 0]);
    for _ in 0..2 {
        done(&mut whole, FrontendReq::ADD_MEM_REG, region.clone(), vec![memory_file()]);
    }
    assert!(whole.is_ready() && whole.rings.memory.regions() == 1);
    for _ in 0..2 {
        done(&mut whole, FrontendReq::REM_MEM_REG, region.clone(), vec![]);
    }
    assert!(!whole.is_ready() && whole.rings.memory.regions() == 0);
}

/// D20, D27: each of these ended passt, or did nothing and said that all was well.
#[test]
fn d20_d27_nonsense_is_refused_and_changes_nothing() {
    let ring = |n: u32, m: u32| u32s(&[n, m]);
    let table = |n: u32| [u32s(&[n, 0]), u64s(&[0, MEMORY, USER, 0])].concat();
    let cases: Vec<(FrontendReq, Vec<u8>, usize)> = vec![
        (FrontendReq::SET_VRING_NUM, ring(200, 256), 0),
        (FrontendReq::SET_VRING_NUM, ring(0, 0), 0),
        (FrontendReq::SET_VRING_NUM, ring(0, 100), 0),
        (FrontendReq::SET_VRING_NUM, ring(0, 65536), 0),
        (FrontendReq::SET_VRING_NUM, vec![], 0),
        (FrontendReq::SET_VRING_BASE, ring(0, 65536), 0),
        (FrontendReq::SET_VRING_ENABLE, ring(16, 1), 0),
        (FrontendReq::SET_VRING_ADDR, vec![0; 8], 0),
        (FrontendReq::SET_VRING_ADDR, vec![0xff; 40], 0),
        (FrontendReq::GET_VRING_BASE, ring(u32::MAX, 0), 0),
        (FrontendReq::SET_VRING_KICK, u64s(&[200]), 1),
        (FrontendReq::SET_VRING_KICK, u64s(&[0]), 0),
        (FrontendReq::SET_VRING_KICK, u64s(&[0x100]), 1),
        (FrontendReq::SET_VRING_KICK, u64s(&[0x100]), 0),
        (FrontendReq::SET_VRING_KICK, u64s(&[0]), 1),
        (FrontendReq::SET_VRING_CALL, u64s(&[0]), 2),
        (FrontendReq::SET_VRING_ERR, vec![1, 2], 1),
        (FrontendReq::SET_MEM_TABLE, table(2), 2),
        (FrontendReq::SET_MEM_TABLE, table(1), 0),
        (FrontendReq::SET_MEM_TABLE, table(u32::MAX), 1),
        (FrontendReq::SET_MEM_TABLE, vec![], 0),
        (FrontendReq::SET_MEM_TABLE, [u32s(&[1, 0]), u64s(&[0, MEMORY + 1, USER, 0])].concat(), 1),
        (FrontendReq::SET_MEM_TABLE, [u32s(&[1, 0]), u64s(&[0, MEMORY, USER, u64::MAX])].concat(), 1),
        (FrontendReq::ADD_MEM_REG, u64s(&[0, 100, MEMORY, USER, 0]), 1),
        (FrontendReq::ADD_MEM_REG, vec![0; 7], 1),
        (FrontendReq::REM_MEM_REG, u64s(&[0, 1]), 0),
        (FrontendReq::SET_LOG_BASE, u64s(&[MEMORY + 1, 0]), 1),
        (FrontendReq::SET_LOG_BASE, u64s(&[MEMORY, 0]), 0),
        (FrontendReq::SET_FEATURES, vec![0; 4], 0),
        (FrontendReq::POSTCOPY_LISTEN, vec![], 0),
        (FrontendReq::SET_DEVICE_STATE_FD, vec![0; 8], 1),
    ];
    for (code, body, fds) in cases {
        let mut whole = running();
        let outcome = ask(&mut whole, code, body.clone(), (0..fds).map(|_| memory_file()).collect());
        assert!(refused(&outcome), "{code:?} {body:?}: {outcome:?}");
        assert!(whole.is_ready(), "{code:?} {body:?}");
    }
    let mut whole = running();
    for code in [0, 45, u32::MAX] {
        assert!(refused(&whole.device.handle(&mut whole.rings, &mut Request::for_test(code, vec![0; 16], vec![]))));
    }
}

#[test]
fn everything_is_forgotten_at_the_end() {
    let mut whole = running();
    whole.device.polling.clear();
    whole.device.forget(&mut whole.rings);
    assert!(!whole.is_ready() && !whole.rings.has(VERSION_1) && whole.rings.memory.regions() == 0);
    assert_eq!(whole.device.polling.iter().filter(|p| matches!(p, Watch::End(_, 0 | 1))).count(), 2);
}
