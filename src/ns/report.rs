//! What the child that did the set-up tells its parent: one message, the tap's descriptors with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Error, Offloads, Tap};
use crate::base::{Addr, Mac};
use crate::sys::fdpass;

/// Sends what became of the set-up.
pub fn send(to: BorrowedFd<'_>, outcome: &Result<Tap, Error>) -> std::io::Result<()> {
    match outcome {
        Ok(tap) => {
            let fds: Vec<BorrowedFd<'_>> = tap.fds.iter().map(AsFd::as_fd).collect();
            fdpass::send_many(to, &encode(tap), &fds)
        }
        Err(e) => fdpass::send(to, &cut(format!("E{e}").into_bytes()), None),
    }
}

/// Waits for it.
///
/// # Errors
/// The child's own, or that it ended without a word.
pub fn recv(from: BorrowedFd<'_>) -> Result<Tap, Error> {
    let (mut message, mut fds) = (vec![0; MESSAGE_BYTES], Vec::new());
    let len =
        fdpass::recv_many(from, &mut message, &mut fds).map_err(Error::io("cannot hear from the set-up process"))?;
    match message[..len].split_first() {
        Some((b'T', rest)) => decode(rest, fds).ok_or_else(|| Error::Failed(GARBLED.into())),
        Some((b'E', text)) => Err(Error::Failed(String::from_utf8_lossy(text).into_owned())),
        None => Err(Error::Failed("the process that sets up the namespace ended without saying why".into())),
        _ => Err(Error::Failed(GARBLED.into())),
    }
}

/// MAC, offloads, how many descriptors come along, link-local address (unspecified: none), name and warnings, a line each.
fn encode(tap: &Tap) -> Vec<u8> {
    let o = tap.offloads;
    let mut m = vec![b'T'];
    m.extend(tap.mac.0);
    m.extend([o.vnet_header, o.csum, o.tso, o.uso].map(u8::from));
    m.push(tap.fds.len() as u8);
    m.extend(tap.link_local.unwrap_or(Addr::V6_UNSPECIFIED).octets());
    m.extend(tap.name.bytes());
    for w in &tap.warnings {
        m.push(b'\n');
        m.extend(w.replace('\n', " ").bytes());
    }
    cut(m)
}

fn decode(m: &[u8], fds: Vec<OwnedFd>) -> Option<Tap> {
    let (mac, m) = m.split_first_chunk::<6>()?;
    let (flags, m) = m.split_first_chunk::<4>()?;
    let (count, m) = m.split_first()?;
    let (link_local, m) = m.split_first_chunk::<16>()?;
    let text = String::from_utf8_lossy(m);
    let mut lines = text.split('\n').map(str::to_owned);
    let [vnet_header, csum, tso, uso] = flags.map(|f| f != 0);
    // One that got lost on the way is not one that was never there.
    if usize::from(*count) != fds.len() {
        return None;
    }
    Some(Tap {
        fds,
        name: lines.next()?,
        mac: Mac(*mac),
        offloads: Offloads { vnet_header, csum, tso, uso },
        link_local: Some(Addr::v6(*link_local)).filter(|a| !a.is_unspecified()),
        warnings: lines.collect(),
        upkeep: None,
    })
}

fn cut(mut message: Vec<u8>) -> Vec<u8> {
    message.truncate(MESSAGE_BYTES);
    message
}

const MESSAGE_BYTES: usize = 16384;
const GARBLED: &str = "the process that sets up the namespace sent something that cannot be understood";

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(queues: usize, warnings: Vec<String>) -> Tap {
        Tap {
            fds: (0..queues).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect(),
            name: "eth0".into(),
            mac: Mac([2, 0, 0, 1, 2, 3]),
            offloads: Offloads { vnet_header: true, csum: true, tso: true, uso: false },
            link_local: Some("fe80::7".parse::<std::net::Ipv6Addr>().unwrap().into()),
            warnings,
            upkeep: None,
        }
    }

    #[test]
    fn tap_and_warnings_arrive() {
        let (a, b) = fdpass::pair().unwrap();
        for queues in [0, 1, 8] {
            let sent = tap(queues, vec!["one\nline".into(), "two".into()]);
            send(a.as_fd(), &Ok(tap(queues, sent.warnings.clone()))).unwrap();
            let got = recv(b.as_fd()).unwrap();
            assert_eq!(
                (got.name, got.mac, got.offloads, got.link_local),
                (sent.name, sent.mac, sent.offloads, sent.link_local)
            );
            assert_eq!((got.fds.len(), got.warnings), (queues, vec!["one line".to_string(), "two".into()]));
        }
    }

    #[test]
    fn a_queue_that_got_lost_on_the_way_is_an_error() {
        let (a, b) = fdpass::pair().unwrap();
        fdpass::send(a.as_fd(), &encode(&tap(2, Vec::new())), Some(a.as_fd())).unwrap();
        assert_eq!(recv(b.as_fd()).unwrap_err().to_string(), GARBLED);
    }

    #[test]
    fn failure_and_silence_are_errors() {
        let (a, b) = fdpass::pair().unwrap();
        send(a.as_fd(), &Err(Error::Failed("no tap".into()))).unwrap();
        assert_eq!(recv(b.as_fd()).unwrap_err().to_string(), "no tap");
        drop(a);
        assert!(recv(b.as_fd()).unwrap_err().to_string().contains("without saying why"));
    }
}
