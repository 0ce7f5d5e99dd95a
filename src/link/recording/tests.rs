//! Whole captures: recorders that are handed frames, a writer in its thread, files and pipes for real.

use std::io::Read;
use std::time::Instant;

use nix::fcntl::OFlag;

use super::queue::QUEUE_BYTES;
use super::*;
use crate::base::DropReason;
use crate::guest::Frame;
use crate::link::Tee;
use crate::sys::iov::Gather;
use crate::wire::{self, Offload};

fn start() -> Recordings {
    let (recordings, writer) = Recordings::new("spelt test".into(), "Linux".into(), "eth7".into()).unwrap();
    std::thread::spawn(move || writer.run());
    recordings
}

fn wanted(output: File) -> Wanted {
    Wanted { pick: Pick::default(), snaplen: None, limit: None, output }
}

/// A worker's, with a capture that it takes part in.
fn tee(recordings: &Recordings, wanted: Wanted) -> (Tee, Arc<Recording>) {
    let recording = recordings.begin(wanted).unwrap();
    let mut tee = Tee::default();
    tee.record(Recorder::new(recording.clone()));
    (tee, recording)
}

fn pipe() -> (File, File) {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    (read.into(), write.into())
}

fn udp(len: usize) -> Vec<u8> {
    let builder =
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64).udp(5, 53);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &vec![7; len]).unwrap();
    bytes
}

fn from_guest(tee: &mut Tee, head: &[u8], rest: &[u8]) {
    let rest = [Gather::new(rest)];
    let frame = Frame { head, rest: &rest, offload: Offload::NONE };
    tee.dealing_with(&frame, &wire::parse(head, frame.len()));
    // What it causes comes after it.
    tee.to_guest(b"answer........", &[]);
    tee.dealt_with(None);
}

fn word(b: &[u8], at: usize) -> usize {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap()) as usize
}

/// Type and body of each block; the last one is whole.
fn blocks(mut bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let len = word(bytes, 4);
        assert_eq!(word(bytes, len - 4), len);
        all.push((word(bytes, 0), bytes[8..len - 4].to_vec()));
        bytes = &bytes[len..];
    }
    all
}

/// Of an enhanced packet block: the frame, how long it was, and its options.
fn frame(body: &[u8]) -> (&[u8], usize, &[u8]) {
    let kept = word(body, 12);
    (&body[20..20 + kept], word(body, 16), &body[20 + kept.next_multiple_of(4)..])
}

/// The last options of an interface statistics block.
fn received_and_dropped(body: &[u8]) -> (usize, usize) {
    (word(body, body.len() - 24), word(body, body.len() - 12))
}

#[test]
fn frames_are_whole_in_order_and_with_their_fate() {
    let recordings = start();
    let mut output = tempfile::tempfile().unwrap();
    let (mut tee, recording) = tee(&recordings, wanted(output.try_clone().unwrap()));
    let question = udp(20);
    from_guest(&mut tee, &question[..42], &question[42..]);
    let dropped = Frame { head: &question, rest: &[], offload: Offload::NONE };
    tee.dealing_with(&dropped, &wire::parse(&question, question.len()));
    tee.to_guest(b"answer........", &[]);
    // A link that is full may be flushed before its time.
    tee.flush();
    tee.dealt_with(Some(DropReason::HostSend));
    tee.flush();
    recording.stop();
    assert!(recording.wait());
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut output).unwrap();
    output.read_to_end(&mut bytes).unwrap();
    let all = blocks(&bytes);
    assert_eq!(all.iter().map(|b| b.0).collect::<Vec<_>>(), [0x0a0d_0d0a, 1, 6, 6, 6, 6, 5]);
    let (first, len, options) = frame(&all[2].1);
    assert_eq!((first, len), (&question[..], question.len()));
    let sliced = etherparse::SlicedPacket::from_ethernet(first).unwrap();
    assert!(matches!(sliced.transport, Some(etherparse::TransportSlice::Udp(u)) if u.destination_port() == 53));
    // epb_flags: outbound, and inbound.
    assert_eq!(options, [2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(frame(&all[3].1), (&b"answer........"[..], 14, &[2, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0][..]));
    let comment = String::from_utf8_lossy(frame(&all[4].1).2).into_owned();
    assert!(comment.contains("dropped: host_send: The host socket refused"), "{comment}");
    assert_eq!(received_and_dropped(&all[6].1), (4, 0));
    assert_eq!(recordings.counts(), Counts { frames: 4, bytes: 2 * (question.len() as u64 + 14), lost: 0 });
}

#[test]
fn a_reader_that_takes_nothing_costs_frames_and_no_time() {
    let recordings = start();
    let (mut reader, output) = pipe();
    let (mut tee, recording) = tee(&recordings, wanted(output));
    let large = udp(60_000);
    let (began, mut sent) = (Instant::now(), 0);
    while recording.counts().lost < 10 {
        (0..4).for_each(|_| tee.to_guest(&large[..42], &large[42..]));
        sent += 4;
        tee.flush();
        assert!(sent * large.len() < 8 * QUEUE_BYTES);
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    let Counts { frames, lost, .. } = recording.counts();
    assert_eq!(frames + lost, sent as u64);
    assert_eq!(recordings.running().len(), 1);
    // It goes on, and is told what it missed.
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while recording.counts().frames == frames {
        tee.to_guest(&large[..42], &[]);
        tee.flush();
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    tee.leave(recording.id);
    recording.stop();
    assert!(recording.wait());
    let bytes = reading.join().unwrap().unwrap();
    let all = blocks(&bytes);
    let lost = recording.counts().lost as usize;
    assert_eq!(received_and_dropped(&all.last().unwrap().1), (recording.counts().frames as usize + lost, lost));
    // epb_dropcount.
    let told = |body: &[u8]| {
        let options = frame(body).2;
        if options[8] == 4 { word(options, 12) } else { 0 }
    };
    let told: usize = all.iter().filter(|b| b.0 == 6).map(|b| told(&b.1)).sum();
    assert_eq!(told, lost);
}

#[test]
fn whoever_goes_ends_it() {
    let recordings = start();
    let (reader, output) = pipe();
    let (mut tee, recording) = tee(&recordings, wanted(output));
    drop(reader);
    assert!(recording.wait());
    tee.to_guest(&udp(1), &[]);
    tee.flush();
    assert!(!tee.is_recording());
    assert!(recordings.running().is_empty());
}

#[test]
fn one_that_is_stopped_does_not_wait_for_ever() {
    let recordings = start();
    let (_reader, output) = pipe();
    let (mut tee, recording) = tee(&recordings, wanted(output));
    (0..100).for_each(|_| tee.to_guest(&udp(60_000), &[]));
    tee.flush();
    let began = Instant::now();
    recordings.finish();
    assert!(recording.is_over());
    assert!((writer::PATIENCE..writer::PATIENCE * 2).contains(&began.elapsed()));
}

#[test]
fn what_cannot_be_written_ends_it() {
    let recordings = start();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (mut tee, recording) = tee(&recordings, wanted(full));
    assert!(recording.wait());
    // Workers hear of it, though they have nothing for it.
    tee.flush();
    assert!(!tee.is_recording());
}

#[test]
fn no_more_bytes_than_it_may_have_and_the_end() {
    let recordings = start();
    let output = tempfile::NamedTempFile::new().unwrap();
    let most = 4096;
    let (mut tee, recording) =
        tee(&recordings, Wanted { limit: Some(most), snaplen: Some(60), ..wanted(output.reopen().unwrap()) });
    while tee.is_recording() {
        tee.to_guest(&udp(100), &[]);
        tee.flush();
    }
    assert!(recording.wait());
    let bytes = std::fs::read(output.path()).unwrap();
    let all = blocks(&bytes);
    assert!(bytes.len() as u64 <= most && bytes.len() as u64 > most - 200, "{}", bytes.len());
    assert_eq!(all.last().unwrap().0, 5);
    assert_eq!((frame(&all[2].1).0.len(), frame(&all[2].1).1), (60, 142));
}

#[test]
fn there_are_not_too_many() {
    let recordings = start();
    let readers: Vec<_> = (0..RECORDINGS_MAX)
        .map(|_| {
            let (reader, output) = pipe();
            (reader, recordings.begin(wanted(output)).unwrap())
        })
        .collect();
    assert!(recordings.begin(wanted(pipe().1)).is_none());
    let (reader, first) = readers.into_iter().next().unwrap();
    drop(reader);
    assert!(first.wait());
    assert!(recordings.begin(wanted(tempfile::tempfile().unwrap())).is_some());
}
