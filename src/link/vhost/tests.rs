use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::unistd::ftruncate;
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};

use super::card::{COPY_WHOLE, WAITING_BYTES};
use super::device::{GUEST_CSUM, GUEST_TSO, GUEST_USO, MERGEABLE};
use super::driver::{Driver, STRIDE, u32s, u64s};
use super::*;
use crate::guest::Reservation;
use crate::sys::socket;
use crate::wire::{Csum, Gso};

pub const PROTOCOL: u64 = 1 << 30;
pub const VERSION: u64 = 1 << 32;
pub const PLAIN: [u8; 12] = [0; 12];

fn link_with(features: u64) -> (Vhost, Driver) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut link = Vhost::connected(ours.into(), 1500, Tee::default());
    let driver = Driver::start(theirs, features | VERSION | PROTOCOL);
    assert_eq!(link.room(), Room::Nobody);
    assert_eq!(listen_to(&mut link), Talk::Silence);
    assert_eq!((link.room(), link.polling().len()), (Room::Free, 2));
    driver.called(0);
    driver.called(1);
    (link, driver)
}

fn link() -> (Vhost, Driver) {
    link_with(MERGEABLE | GUEST_CSUM | GUEST_TSO | GUEST_USO)
}

pub fn listen_to(link: &mut Vhost) -> Talk {
    loop {
        match link.converse(Instant::ZERO) {
            Talk::More => {}
            end => return end,
        }
    }
}

/// All frames there are, and whether they were lent.
fn frames(link: &mut Vhost) -> Vec<(Vec<u8>, bool, Offload)> {
    let (mut batch, mut all) = (Batch::new(), Vec::new());
    loop {
        batch.clear();
        let input = link.receive(&mut batch);
        for frame in batch.frames() {
            let mut bytes = frame.head.to_vec();
            frame.rest.iter().for_each(|piece| piece.copy_to(&mut bytes));
            all.push((bytes, !frame.rest.is_empty(), frame.offload));
        }
        link.release();
        if input != Input::More {
            return all;
        }
    }
}

pub fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn frames_come_whole_however_they_lie() {
    let (mut link, mut driver) = link();
    for (len, pieces) in [(60, vec![]), (60, vec![12]), (60, vec![5, 3, 20]), (2048, vec![12]), (65_000, vec![12, 66])]
    {
        driver.send(PLAIN, &bytes(len), &pieces);
        let got = frames(&mut link);
        assert_eq!(got, [(bytes(len), len > COPY_WHOLE, Offload::NONE)], "{len}");
        assert_eq!((driver.used(1).len(), driver.called(1)), (1, 1));
    }
    let many = vec![1000; 40];
    driver.send(PLAIN, &bytes(65_000), &many);
    assert_eq!(frames(&mut link), [(bytes(65_000), false, Offload::NONE)]);
}

#[test]
fn offloads_of_the_guest_are_read() {
    let (mut link, mut driver) = link();
    driver.send([1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0], &bytes(3000), &[]);
    let offload = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Gso::Tcp(1460) };
    assert_eq!(frames(&mut link)[0].2, offload);
}

#[test]
fn frames_go_into_as_many_buffers_as_they_take() {
    let (mut link, mut driver) = link();
    driver.offer_room(5, 1000);
    link.send(&bytes(60), Offload::NONE).unwrap();
    link.send(&bytes(2500), Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso: Gso::None }).unwrap();
    assert!(driver.used(0).is_empty());
    link.flush().unwrap();
    let used = driver.used(0);
    assert_eq!(used.iter().map(Vec::len).collect::<Vec<_>>(), [72, 1000, 1000, 512]);
    assert_eq!((&used[0][12..], &used[0][..12]), (&bytes(60)[..], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..]));
    assert_eq!(used[1][..12], [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 3, 0]);
    assert_eq!(used[1..].concat()[12..], bytes(2500));
    assert_eq!(driver.called(0), 1);
}

#[test]
fn payload_is_received_where_the_guest_finds_it() {
    let (mut link, mut driver) = link();
    driver.offer_room(20, 1500);
    let (mut peer, socket) = UnixStream::pair().unwrap();
    peer.write_all(&bytes(10_000)).unwrap();
    let mut reservation = Reservation::new(&mut link, 3, 54, 4000, Fill::Stream).unwrap();
    assert_eq!(reservation.left(), 3);
    {
        let mut areas = Areas::new();
        reservation.areas(&mut areas);
        assert_eq!(areas.len(), 9);
        assert_eq!(socket::peek(socket.as_fd(), &mut areas).unwrap(), 10_000);
    }
    for len in [4000, 4000, 2000] {
        reservation.commit(&[7; 54], len, Offload::NONE).unwrap();
    }
    drop(reservation);
    let used = driver.used(0);
    assert_eq!(used.iter().map(Vec::len).collect::<Vec<_>>(), [1500, 1500, 1066, 1500, 1500, 1066, 1500, 566]);
    let payload = [&used[..3], &used[3..6], &used[6..]].map(|frame| frame.concat()[66..].to_vec());
    assert_eq!(payload.concat(), bytes(10_000));
    assert!(used[6][12..66] == [7; 54] && used[6][10] == 2);
    // What was not needed is there for the next.
    link.send(&bytes(60), Offload::NONE).unwrap();
    link.flush().unwrap();
    assert_eq!(driver.used(0).len(), 1);
}

#[test]
fn sums_are_made_for_guests_that_want_them() {
    let (mut link, mut driver) = link_with(MERGEABLE);
    assert_eq!(link.caps(), Caps { csum: false, tso: false, uso: false, mtu: 1500 });
    driver.offer_room(4, 1000);
    assert_eq!(link.reserve(1, 42, 1500, Fill::Messages), 1);
    let mut areas = Areas::new();
    link.areas(&mut areas);
    let (mut peer, socket) = UnixStream::pair().unwrap();
    peer.write_all(&bytes(1333)).unwrap();
    socket::peek(socket.as_fd(), &mut areas).unwrap();
    drop(areas);
    assert_eq!(link.sum(1333).checksum(), Sum::new().add(&bytes(1333)).checksum());
    link.cancel();
}

#[test]
fn without_buffers_the_link_is_full_until_a_kick() {
    let (mut link, mut driver) = link();
    assert_eq!((link.reserve(4, 54, 1460, Fill::Stream), link.room()), (0, Room::Full));
    assert_eq!(link.send(&bytes(9000), Offload::NONE), Err(LinkFull));
    // Small ones wait.
    for _ in 0..3 {
        link.send(&bytes(60), Offload::NONE).unwrap();
    }
    driver.offer_room(2, 1000);
    link.writable();
    assert_eq!(link.room(), Room::Full);
    driver.offer_room(4, 1000);
    link.writable();
    assert_eq!((link.reserve(4, 54, 1460, Fill::Stream), link.room()), (1, Room::Free));
    link.cancel();
    assert_eq!(driver.used(0).iter().map(Vec::len).collect::<Vec<_>>(), [72; 3]);
    link.cancel();
    // Frames that fit into one buffer only.
    let (mut link, mut driver) = link_with(0);
    driver.offer_room(2, 1600);
    assert_eq!(link.reserve(4, 54, 1460, Fill::Stream), 2);
    link.cancel();
    assert_eq!((link.reserve(1, 54, 2000, Fill::Stream), link.room()), (0, Room::Free));
}

#[test]
fn what_waits_is_bounded_and_goes_with_the_client() {
    let (mut link, _driver) = link();
    let mut taken = 0;
    while link.send(&bytes(1000), Offload::NONE).is_ok() {
        taken += 1;
    }
    assert_eq!((taken, link.room()), (WAITING_BYTES / 1000, Room::Full));
    link.disconnect(&mut Batch::new(), Instant::ZERO);
    assert_eq!((link.lost(), link.card.waiting_bytes), (taken as u64, 0));
}

#[test]
fn chains_that_make_no_sense_come_back_and_others_are_served() {
    let (mut link, mut driver) = link();
    driver.offer(1, &[(u64::MAX, 100, false)]);
    driver.offer(1, &[(0x20_0000, 100, true)]);
    driver.offer(1, &[(0x20_0000, 11, false)]);
    driver.offer(1, &[(0, 3 << 20, false)]);
    driver.send([0, 77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &bytes(60), &[]);
    driver.send(PLAIN, &bytes(60), &[]);
    assert_eq!(frames(&mut link), [(bytes(60), false, Offload::NONE)]);
    assert_eq!((link.faults(), driver.used(1).len()), (5, 6));
}

#[test]
fn a_broken_ring_is_left_alone() {
    let (mut link, mut driver) = link();
    driver.put_available_index(1, 1000);
    assert!(frames(&mut link).is_empty());
    assert_eq!(link.room(), Room::Nobody);
    driver.send(PLAIN, &bytes(60), &[]);
    assert!(frames(&mut link).is_empty());
    let (mut link, mut driver) = self::link();
    driver.offer(0, &[(u64::MAX - 5, 3, true)]);
    assert_eq!((link.send(&bytes(60), Offload::NONE), link.room()), (Err(LinkFull), Room::Nobody));
    // What is no room of the guest's was never written.
    assert!(driver.used(0).is_empty());
}

#[test]
fn frames_of_a_ring_that_is_switched_off_are_lost() {
    let (mut link, mut driver) = link();
    driver.say(FrontendReq::SET_VRING_ENABLE, &u32s(&[1, 0]), &[]);
    listen_to(&mut link);
    driver.send(PLAIN, &bytes(60), &[]);
    assert!(frames(&mut link).is_empty());
    assert_eq!((link.room(), driver.used(1).len()), (Room::Nobody, 1));
}

#[test]
fn b185_the_rings_need_not_be_there() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut link = Vhost::connected(ours.into(), 1500, Tee::default());
    assert_eq!(link.converse(Instant::ZERO), Talk::Silence);
    assert_eq!(link.send(&bytes(60), Offload::NONE), Err(LinkFull));
    assert_eq!(link.reserve(1, 54, 100, Fill::Stream), 0);
    assert_eq!(link.receive(&mut Batch::new()), Input::Drained);
    link.flush().unwrap();
}

#[test]
fn buffers_taken_ahead_are_given_back_when_the_ring_stops() {
    let (mut link, mut driver) = link();
    driver.offer_room(10, 1500);
    link.send(&bytes(60), Offload::NONE).unwrap();
    assert_eq!(link.reserve(2, 54, 4000, Fill::Stream), 2);
    link.cancel();
    driver.say(FrontendReq::GET_VRING_BASE, &u32s(&[0, 0]), &[]);
    listen_to(&mut link);
    assert_eq!(driver.answer(), Some((11, u32s(&[0, 1]))));
    assert_eq!(driver.used(0).len(), 1);
}

/// What was written and not published when the ring moves is the driver's nevertheless.
#[test]
fn frames_survive_a_ring_that_is_found_again() {
    let (mut link, mut driver) = link();
    driver.offer_room(4, 1500);
    link.send(&bytes(60), Offload::NONE).unwrap();
    assert!(driver.used(0).is_empty());
    driver.say(FrontendReq::SET_VRING_ADDR, &driver::addresses(0), &[]);
    listen_to(&mut link);
    link.send(&bytes(70), Offload::NONE).unwrap();
    link.flush().unwrap();
    assert_eq!(driver.used(0).iter().map(Vec::len).collect::<Vec<_>>(), [72, 82]);
}

#[test]
fn who_waits_for_an_answer_that_cannot_be_given_is_left() {
    let (mut link, driver) = link();
    driver.say(FrontendReq::SET_LOG_BASE, &u64s(&[1 << 40, 0]), &[]);
    assert_eq!(listen_to(&mut link), Talk::Gone);
}

#[test]
fn frames_that_would_be_too_many_datagrams_are_lost() {
    let (mut link, mut driver) = link();
    driver.send([1, 5, 42, 0, 1, 0, 34, 0, 6, 0, 0, 0], &bytes(60_000), &[]);
    driver.send([1, 5, 42, 0, 0, 5, 34, 0, 6, 0, 0, 0], &bytes(60_000), &[]);
    assert_eq!((frames(&mut link).len(), link.faults()), (1, 1));
}

#[test]
fn d20_unknown_requests_are_answered() {
    let (mut link, driver) = link();
    let bits = VhostUserProtocolFeatures::REPLY_ACK.bits();
    driver.say(FrontendReq::SET_PROTOCOL_FEATURES, &u64s(&[bits]), &[]);
    for (code, flags, answer) in [(99, 9, Some((99, u64s(&[1])))), (3, 9, Some((3, u64s(&[0])))), (99, 1, None)] {
        driver.say_raw(&u32s(&[code, flags, 0]), &[]);
        assert_eq!(listen_to(&mut link), Talk::Silence);
        assert_eq!(driver.answer(), answer);
    }
    assert_eq!(link.room(), Room::Free);
}

#[test]
fn d27_what_is_no_message_ends_the_connection() {
    for (raw, word) in [(u32s(&[1, 2, 0]), "version"), (u32s(&[1, 1, 1 << 20]), "length"), (vec![0xff; 12], "version")]
    {
        let (mut link, driver) = link();
        driver.say_raw(&raw, &[]);
        assert_eq!(listen_to(&mut link), Talk::Gone);
        assert!(link.session.as_ref().unwrap().fault.as_ref().unwrap().contains(word));
        link.disconnect(&mut Batch::new(), Instant::ZERO);
        assert!(driver.is_closed() && link.room() == Room::Nobody);
    }
}

#[test]
fn messages_may_come_in_parts() {
    let (mut link, driver) = link();
    let message = [u32s(&[FrontendReq::GET_QUEUE_NUM as u32, 1, 8]), vec![0; 8]].concat();
    for byte in message {
        assert_eq!((link.converse(Instant::ZERO), driver.answer()), (Talk::Silence, None));
        driver.say_raw(&[byte], &[]);
    }
    assert_eq!(link.converse(Instant::ZERO), Talk::More);
    assert_eq!(driver.answer(), Some((17, u64s(&[8]))));
}

#[test]
fn memory_that_goes_ends_the_connection_and_not_us() {
    let (mut link, mut driver) = link();
    driver.send(PLAIN, &bytes(60), &[]);
    ftruncate(&driver.memory, 0).unwrap();
    let _ = frames(&mut link);
    assert_eq!(link.flush(), Err(Gone));
    assert!(link.has_lost_client());
    link.disconnect(&mut Batch::new(), Instant::ZERO);
    assert!(driver.is_closed());
}

#[test]
fn a_pass_ends_however_much_there_is() {
    let (mut link, mut driver) = link();
    for _ in 0..driver::NUM {
        driver.offer(1, &[(u64::MAX, 1, false)]);
    }
    let mut batch = Batch::new();
    assert_eq!(link.receive(&mut batch), Input::More);
    assert!(batch.is_empty() && STRIDE > 0);
}
