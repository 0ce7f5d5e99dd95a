//! Rings that are lent: one guest, several cards. And what buffers do not hold.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::FrontendReq;

use super::super::device::{LOG_ALL, MERGEABLE};
use super::super::driver::{Driver, NUM, addresses, u32s, u64s};
use super::super::tests::{PLAIN, PROTOCOL, VERSION, bytes, listen_to};
use super::super::{Vhost, Watch};
use super::*;
use crate::base::Instant;
use crate::guest::Reservation;

fn guest(features: u64, pairs: usize) -> (Vhost, Driver) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut link = Vhost::connected(ours.into(), 1500, Tee::default());
    let driver = Driver::start_pairs(theirs, features | MERGEABLE | VERSION | PROTOCOL, pairs);
    listen_to(&mut link);
    let begun = |watch| if let Watch::Begin(_, ring) = watch { ring } else { usize::MAX };
    assert!(link.polling().into_iter().map(begun).eq(0..2 * pairs));
    (link, driver)
}

fn card() -> Card {
    Card::new(1500, Tee::default())
}

/// Lengths of all frames that there are.
fn of_card(card: &mut Card) -> Vec<usize> {
    let (mut batch, mut all) = (Batch::new(), Vec::new());
    while card.receive(&mut batch) == Input::More {
        all.extend(batch.frames().map(|frame| frame.len()));
        batch.clear();
        card.release();
    }
    all
}

fn of_link(link: &mut Vhost) -> Vec<usize> {
    of_card(&mut link.card)
}

fn used(driver: &mut Driver, ring: usize) -> Vec<usize> {
    driver.used(ring).iter().map(Vec::len).collect()
}

fn enable(driver: &Driver, ring: u32, on: u32) {
    driver.say(FrontendReq::SET_VRING_ENABLE, &u32s(&[ring, on]), &[]);
}

#[test]
fn rings_and_cards_may_go_to_threads() {
    fn is_send<T: Send>() {}
    is_send::<Rings>();
    is_send::<Card>();
    is_send::<crate::link::Link>();
}

#[test]
fn pairs_in_a_circle() {
    let pairs = Pairs::of_worker(1, 3);
    assert!(pairs.iter().eq([1, 4, 7]));
    assert!(pairs.beginning_at(4).eq([4, 7, 1]) && pairs.beginning_at(5).eq([7, 1, 4]));
    assert!(Pairs::ALL.beginning_at(7).eq([7, 0, 1, 2, 3, 4, 5, 6]) && Pairs::NONE.iter().next().is_none());
    assert!(Pairs::of_worker(0, 1) == Pairs::ALL && Pairs::of_worker(9, 10) == Pairs::NONE);
}

#[test]
fn each_card_has_its_own_pairs() {
    let (mut link, mut driver) = guest(GUEST_CSUM | GUEST_TSO, 4);
    let mut other = card();
    assert_eq!((other.room(), of_card(&mut other)), (Room::Nobody, vec![]));
    assert_eq!((other.send(&bytes(60), Offload::NONE), other.flush()), (Err(LinkFull), Ok(())));
    other.adopt(link.lend(1, 2));
    assert_eq!((link.room(), other.room()), (Room::Free, Room::Free));
    assert_eq!(link.caps(), other.caps());
    for (ring, len) in [(1, 61), (3, 3000), (5, 65), (7, 67)] {
        driver.send_in(ring, PLAIN, &bytes(len), &[]);
    }
    assert_eq!((of_link(&mut link), of_card(&mut other)), (vec![61, 65], vec![3000, 67]));
    (0..4).for_each(|pair| assert_eq!(driver.used(2 * pair + 1).len(), 1));
    for ring in [0, 2, 4, 6] {
        driver.offer_room_in(ring, 2, 1500);
    }
    link.send(&bytes(70), Offload::NONE).unwrap();
    let mut reservation = Reservation::new(&mut other, 1, 54, 1000, Fill::Stream).unwrap();
    reservation.commit(&[7; 54], 900, Offload::NONE).unwrap();
    drop(reservation);
    link.flush().unwrap();
    other.flush().unwrap();
    let went: Vec<_> = [0, 2, 4, 6].iter().map(|ring| used(&mut driver, *ring)).collect();
    assert_eq!(went, [vec![82], vec![966], vec![], vec![]]);
    assert_eq!((link.sent().0, other.sent().0), (1, 1));
}

/// What the driver does meanwhile is found by whoever has the rings next, and nothing comes twice.
#[test]
fn rings_go_on_where_they_were() {
    let (mut link, mut driver) = guest(0, 2);
    let mut other = card();
    for round in 0..20 {
        other.adopt(link.lend(1, 2));
        driver.send_in(3, PLAIN, &bytes(60 + round), &[]);
        driver.offer_room_in(2, 2, 1500);
        assert_eq!(of_card(&mut other), [60 + round]);
        driver.send_in(3, PLAIN, &bytes(1000 + round), &[]);
        other.send(&bytes(70 + round), Offload::NONE).unwrap();
        // Done and not told of: that is for the one who gives them away.
        let rings = other.give_back();
        assert_eq!((used(&mut driver, 2), other.room()), (vec![82 + round], Room::Full));
        link.take_back(1, 2, rings);
        driver.say(FrontendReq::SET_VRING_ADDR, &addresses(2), &[]);
        listen_to(&mut link);
        // None are lent: all is ours.
        assert_eq!(of_link(&mut link), [1000 + round]);
        assert_eq!(driver.used(3).len(), 2);
    }
    assert_eq!((link.faults(), other.faults()), (0, 0));
}

#[test]
fn what_waits_stays_until_there_are_rings_again() {
    let (mut link, mut driver) = guest(0, 2);
    let mut other = card();
    other.adopt(link.lend(1, 2));
    for _ in 0..3 {
        other.send(&bytes(60), Offload::NONE).unwrap();
    }
    assert_eq!((other.room(), other.waiting.len()), (Room::Full, 3));
    link.take_back(1, 2, other.give_back());
    driver.offer_room_in(2, 2, 1500);
    other.adopt(link.lend(1, 2));
    other.flush().unwrap();
    assert_eq!((used(&mut driver, 2), other.room(), other.waiting.len()), (vec![72; 2], Room::Full, 1));
    // A guest that goes takes along what waits for it.
    link.take_back(1, 2, other.give_back());
    link.disconnect(&mut Batch::new(), Instant::ZERO);
    other.disconnect(&mut Batch::new());
    assert_eq!((other.lost(), other.waiting_bytes, link.lost()), (1, 0, 0));
}

#[test]
fn a_reset_while_all_are_home_ends_what_was_lent() {
    let (mut link, mut driver) = guest(0, 2);
    let kick = |rings: &Rings| rings.queues[3].kick.as_ref().unwrap().as_raw_fd();
    let polled = kick(&link.card.rings);
    let mut other = card();
    other.adopt(link.lend(1, 2));
    // Open, and the same, for as long as it may be polled.
    assert_eq!(kick(&other.rings), polled);
    link.take_back(1, 2, other.give_back());
    driver.say(FrontendReq::RESET_DEVICE, &[], &[]);
    listen_to(&mut link);
    let mut ended = Vec::new();
    for change in link.polling() {
        let Watch::End(fd, ring) = change else { panic!("{change:?}") };
        assert!(ring != 3 || fd.as_raw_fd() == polled);
        ended.push(ring);
    }
    assert_eq!((ended, link.running(2)), (vec![0, 1, 2, 3], 0));
    other.adopt(link.lend(1, 2));
    driver.send_in(3, PLAIN, &bytes(60), &[]);
    assert_eq!((link.room(), other.room(), of_card(&mut other)), (Room::Nobody, Room::Nobody, vec![]));
    link.take_back(1, 2, other.give_back());
    let socket = driver.socket.try_clone().unwrap();
    let mut driver = Driver::start_pairs(socket, MERGEABLE | VERSION | PROTOCOL, 2);
    listen_to(&mut link);
    assert_eq!((link.polling().len(), link.running(2)), (4, 3));
    other.adopt(link.lend(1, 2));
    driver.send_in(3, PLAIN, &bytes(77), &[]);
    assert_eq!((of_card(&mut other), other.room()), (vec![77], Room::Free));
}

#[test]
fn pairs_that_are_switched_off_do_not_run() {
    let (mut link, mut driver) = guest(0, 4);
    assert_eq!([1, 2, 3, 8].map(|of| link.running(of)), [1, 3, 7, 15]);
    enable(&driver, 2, 0);
    listen_to(&mut link);
    assert_eq!([2, 4].map(|of| link.running(of)), [3, 13]);
    // The next pair that runs is the one to send through.
    let mut other = card();
    other.adopt(link.lend(1, 2));
    driver.offer_room_in(2, 1, 1500);
    driver.offer_room_in(6, 1, 1500);
    other.send(&bytes(60), Offload::NONE).unwrap();
    other.flush().unwrap();
    assert_eq!((used(&mut driver, 2), used(&mut driver, 6)), (vec![], vec![72]));
    link.take_back(1, 2, other.give_back());
    enable(&driver, 7, 0);
    listen_to(&mut link);
    assert_eq!([2, 4].map(|of| link.running(of)), [1, 5]);
    other.adopt(link.lend(1, 2));
    assert_eq!((other.room(), link.room()), (Room::Nobody, Room::Free));
    // Without the first pair there is no card, as ever.
    link.take_back(1, 2, other.give_back());
    enable(&driver, 1, 0);
    listen_to(&mut link);
    assert_eq!((link.room(), link.running(4)), (Room::Nobody, 4));
}

/// One that the driver breaks is left for another, and what was written before is the driver's.
#[test]
fn a_broken_pair_is_left_for_another() {
    for broken in [2, 3] {
        let (mut link, mut driver) = guest(0, 4);
        let mut other = card();
        other.adopt(link.lend(1, 2));
        driver.offer_room_in(2, 1, 1500);
        driver.offer_room_in(6, 3, 1500);
        other.send(&bytes(60), Offload::NONE).unwrap();
        if broken == 3 {
            other.send(&bytes(61), Offload::NONE).unwrap();
            assert_eq!(other.room(), Room::Full);
        }
        driver.put_available_index(broken, 1000);
        assert!(of_card(&mut other).is_empty());
        other.send(&bytes(62), Offload::NONE).unwrap();
        other.flush().unwrap();
        let rest = if broken == 3 { vec![73, 74] } else { vec![74] };
        assert_eq!((used(&mut driver, 2), used(&mut driver, 6), other.room()), (vec![72], rest, Room::Free));
    }
}

#[test]
fn both_mark_what_they_write() {
    let (mut link, mut driver) = guest(LOG_ALL, 2);
    let fd: OwnedFd = memfd_create(c"log", MFdFlags::MFD_CLOEXEC).unwrap();
    let log = File::from(fd);
    log.set_len(4096).unwrap();
    let copy = log.as_fd().try_clone_to_owned().unwrap();
    driver.say(FrontendReq::SET_LOG_BASE, &u64s(&[4096, 0]), &[copy]);
    listen_to(&mut link);
    let mut other = card();
    other.adopt(link.lend(1, 2));
    driver.offer_room_in(0, 1, 1500);
    driver.offer_room_in(2, 1, 1500);
    let marked = |expected: [u8; 2]| {
        let mut bits = [0; 4096];
        log.read_exact_at(&mut bits, 0).unwrap();
        // The first buffers of the two rings: 1 MiB, and 4 MiB on.
        assert_eq!([bits[256 / 8], bits[(1024 + 256) / 8]], expected);
    };
    marked([0, 0]);
    thread::scope(|scope| {
        scope.spawn(|| other.send(&bytes(60), Offload::NONE).unwrap());
        link.send(&bytes(60), Offload::NONE).unwrap();
    });
    marked([1, 1]);
}

/// Has rings until it is told to give them back, with what came.
fn work(lent: &Receiver<Box<Rings>>, recall: &Receiver<()>, back: &Sender<(Box<Rings>, Vec<usize>)>) {
    let mut card = card();
    while let Ok(rings) = lent.recv() {
        card.adopt(*rings);
        let mut came = Vec::new();
        while recall.try_recv().is_err() {
            for len in of_card(&mut card) {
                came.push(len);
                // Refused for want of buffers, maybe.
                let _ = card.send(&bytes(len), Offload::NONE);
            }
            card.flush().unwrap();
        }
        back.send((Box::new(card.give_back()), came)).unwrap();
    }
    card.disconnect(&mut Batch::new());
    assert_eq!(card.lost(), 0);
}

#[test]
fn a_thread_has_rings_while_the_driver_goes_on() {
    let (mut link, mut driver) = guest(0, 2);
    let ((lend, lent), (call, recall), (give, back)) = (channel(), channel(), channel());
    let thread = thread::spawn(move || work(&lent, &recall, &give));
    let (mut sent, mut came, mut returned, mut ours) = (0, Vec::new(), Vec::new(), 0);
    driver.offer_room_in(2, 32, 1500);
    let echo = |driver: &mut Driver, returned: &mut Vec<usize>| {
        let used = used(driver, 2);
        driver.offer_room_in(2, used.len() as u64, 1500);
        returned.extend(used.iter().map(|len| len - 12));
    };
    for round in 0..50 {
        lend.send(Box::new(link.lend(1, 2))).unwrap();
        let until = sent + 20;
        let mut done = 0;
        while sent < until {
            // The driver has eight places for frames in a ring.
            if sent % 20 < done + 8 {
                driver.send_in(3, PLAIN, &bytes(60 + sent % 500), &[]);
                sent += 1;
            }
            driver.send(PLAIN, &bytes(60), &[]);
            ours += of_link(&mut link).len();
            done += driver.used(3).len();
            echo(&mut driver, &mut returned);
        }
        call.send(()).unwrap();
        let (rings, more) = back.recv().unwrap();
        link.take_back(1, 2, *rings);
        came.extend(more);
        // Something is said, and what the other did not come to is ours for a moment.
        enable(&driver, 3, 1);
        listen_to(&mut link);
        came.extend(of_link(&mut link));
        driver.used(3);
        assert_eq!(came.len(), sent, "round {round}");
        echo(&mut driver, &mut returned);
    }
    drop(lend);
    thread.join().unwrap();
    echo(&mut driver, &mut returned);
    assert!(came.iter().copied().eq((0..sent).map(|n| 60 + n % 500)) && ours > 0);
    // What went back went once and in order.
    let mut rest = came.iter();
    assert!(!returned.is_empty() && returned.iter().all(|len| rest.any(|other| other == len)));
}

/// Each notification costs both sides; but a driver that never has so many buffers again must not be waited for.
#[test]
fn a_full_ring_is_looked_at_again_if_the_driver_tells_of_nothing() {
    let (mut link, mut driver) = guest(GUEST_CSUM | GUEST_TSO, 1);
    let reserve = |link: &mut Vhost| link.reserve(1, 54, 1400, Fill::Stream);
    assert_eq!((reserve(&mut link), link.room(), link.is_stuck()), (0, Room::Full, true));
    driver.offer_room(1, 1500);
    link.writable();
    assert_eq!((link.room(), link.is_stuck(), reserve(&mut link)), (Room::Free, false, 1));
    link.commit(&[7; 54], 1400, Offload::NONE).unwrap();
    link.cancel();
    // They were used up again, and some had come meanwhile.
    assert_eq!((reserve(&mut link), link.is_stuck()), (0, true));
    // None has come since: now the first one is told of.
    link.writable();
    assert_eq!((reserve(&mut link), link.room(), link.is_stuck()), (0, Room::Full, false));
    driver.offer_room(1, 1500);
    link.writable();
    assert_eq!(reserve(&mut link), 1);
}

/// The longest frame of Ethernet with the header of the driver's, which is the least that it gives.
const ORDINARY: u32 = 1526;

/// A guest at a link of the default MTU, whose driver has not agreed to anything but this.
fn plain_guest(features: u64) -> (Vhost, Driver) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut link = Vhost::connected(ours.into(), 65520, Tee::default());
    let driver = Driver::start(theirs, features | VERSION | PROTOCOL);
    listen_to(&mut link);
    (link, driver)
}

/// They were put back in front of the others, for ever.
#[test]
fn frames_that_no_buffer_holds_are_lost_and_others_go_on() {
    let (mut link, mut driver) = plain_guest(0);
    // Nobody knows yet how long buffers are.
    assert_eq!(link.caps().mtu, 65520);
    for len in [60, 2000, 70] {
        link.send(&bytes(len), Offload::NONE).unwrap();
    }
    driver.offer_room(6, ORDINARY);
    link.writable();
    link.flush().unwrap();
    assert_eq!((used(&mut driver, 0), link.lost(), link.card.waiting_bytes), (vec![72, 82], 1, 0));
    assert_eq!((link.room(), link.caps().mtu), (Room::Free, 1500));
    for len in [1515, 1514, 80] {
        link.send(&bytes(len), Offload::NONE).unwrap();
    }
    link.flush().unwrap();
    assert_eq!((used(&mut driver, 0), link.lost(), link.room()), (vec![1526, 92], 2, Room::Free));
    assert_eq!((link.card.audit(), link.sent().0), (Ok(()), 5));
}

/// The link was full for TCP as well, as often as a datagram was waited for.
#[test]
fn areas_that_no_buffer_holds_leave_room_for_others() {
    let (mut link, mut driver) = plain_guest(GUEST_CSUM | GUEST_TSO);
    // Before it has been looked at: as if the kick came later.
    driver.offer_room(6, ORDINARY);
    assert!(link.caps().tso);
    assert_eq!((link.reserve(8, 42, 65_507, Fill::Messages), link.room()), (0, Room::Free));
    // Whoever asked in vain, and has nothing else to wait for, is called again.
    assert!(link.is_stuck());
    assert_eq!(link.caps(), Caps { csum: true, tso: false, uso: false, mtu: 1500 });
    assert_eq!(link.reserve(2, 54, 1460, Fill::Stream), 2);
    link.commit(&[7; 54], 1460, Offload::NONE).unwrap();
    link.cancel();
    link.writable();
    assert!(!link.is_stuck());
    assert_eq!((link.reserve(1, 54, 1461, Fill::Stream), used(&mut driver, 0)), (0, vec![1526]));
}

/// Of buffers that hold all that was agreed on nothing changes.
#[test]
fn drivers_with_long_buffers_get_large_frames() {
    let (mut link, mut driver) = plain_guest(GUEST_CSUM | GUEST_TSO | GUEST_USO);
    driver.offer_room(2, 65_562);
    link.writable();
    assert_eq!(link.caps(), Caps { csum: true, tso: true, uso: true, mtu: 65520 });
    assert_eq!((link.reserve(1, 42, 65_507, Fill::Messages), link.room()), (1, Room::Free));
}

#[test]
fn a_full_ring_that_does_not_hold_a_frame_never_will() {
    let (mut link, mut driver) = plain_guest(MERGEABLE | GUEST_CSUM | GUEST_TSO);
    driver.offer_room(u64::from(NUM) - 1, 100);
    link.writable();
    // There is place for another buffer, which may be a long one.
    assert_eq!((link.reserve(1, 54, 40_000, Fill::Stream), link.room()), (0, Room::Full));
    link.send(&bytes(60), Offload::NONE).unwrap();
    link.flush().unwrap();
    assert_eq!(used(&mut driver, 0), [72]);
    driver.offer_room(2, 100);
    link.writable();
    assert_eq!((link.reserve(1, 54, 40_000, Fill::Stream), link.room()), (0, Room::Free));
    assert_eq!(link.caps(), Caps { csum: true, tso: false, uso: false, mtu: 25_600 - 12 - 14 });
    link.send(&bytes(30_000), Offload::NONE).unwrap();
    assert_eq!((link.lost(), link.reserve(1, 54, 25_600 - 66, Fill::Stream)), (1, 1));
    link.commit(&[7; 54], 25_600 - 66, Offload::NONE).unwrap();
    link.cancel();
    link.flush().unwrap();
    assert_eq!(used(&mut driver, 0), [100; NUM as usize]);
    // They are the driver's, which may have others for us.
    assert_eq!((link.reserve(1, 54, 1000, Fill::Stream), link.room()), (0, Room::Full));
}

#[test]
fn only_pieces_that_a_frame_needs_count() {
    for (pieces, holds) in [(400, 32_000), (320, 32_000), (321, 32_000)] {
        let (mut link, mut driver) = plain_guest(0);
        driver.offer_table(pieces, 100);
        link.writable();
        assert_eq!(link.reserve(1, 54, holds - 66, Fill::Stream), 1, "{pieces}");
        let mut areas = Areas::new();
        link.areas(&mut areas);
        assert_eq!(areas.len(), 320);
        drop(areas);
        assert_eq!((link.reserve(1, 54, holds - 65, Fill::Stream), link.room()), (0, Room::Free), "{pieces}");
        assert_eq!(usize::from(link.caps().mtu), holds - 12 - 14);
    }
}

#[test]
fn another_driver_begins_anew() {
    let (mut link, mut driver) = plain_guest(MERGEABLE);
    link.send(&bytes(2000), Offload::NONE).unwrap();
    link.send(&bytes(60), Offload::NONE).unwrap();
    for (features, len, mtu) in [(0, ORDINARY, 1500), (0, 4096, 4096 - 26), (MERGEABLE, ORDINARY, 65520)] {
        driver.say(FrontendReq::RESET_DEVICE, &[], &[]);
        listen_to(&mut link);
        assert_eq!((link.room(), link.caps().mtu), (Room::Nobody, 65520));
        let socket = driver.socket.try_clone().unwrap();
        driver = Driver::start(socket, features | VERSION | PROTOCOL);
        driver.offer_room(3, len);
        listen_to(&mut link);
        assert_eq!((link.room(), link.caps().mtu), (Room::Free, mtu));
        // What waited for the first one, as far as that has a place.
        assert_eq!((link.lost(), link.card.waiting_bytes, link.card.audit()), (1, 0, Ok(())));
    }
    link.send(&bytes(2000), Offload::NONE).unwrap();
    link.flush().unwrap();
    assert_eq!(used(&mut driver, 0), [1526, 2012 - 1526]);
}
