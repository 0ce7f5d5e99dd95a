//! Frames for tests.

use super::frames;
use crate::base::{Addr, Mac};
use crate::wire::checksum::Sum;

pub const OUR_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x01]);
pub const THEIR_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x02]);

pub fn station(n: u16) -> Mac {
    let [high, low] = n.to_be_bytes();
    Mac([2, 0, 0, 0, high, low])
}

pub fn a(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

/// A neighbour solicitation from a neighbour.
pub fn solicit(source: &str, target: &str) -> Vec<u8> {
    let mut frame = frames::ask(&a(source), &a(target), THEIR_MAC).to_vec();
    if source == "::" {
        frame.truncate(78);
        frame[19] = 24;
        mend_checksum(&mut frame);
    }
    frame
}

pub fn ask_v4(source: &str, target: &str) -> Vec<u8> {
    frames::ask(&a(source), &a(target), THEIR_MAC).to_vec()
}

pub fn mend_checksum(frame: &mut [u8]) {
    let addr = |at: usize| Addr::v6(frame[at..at + 16].try_into().unwrap());
    let (src, dst) = (addr(22), addr(38));
    frame[56..58].fill(0);
    let sum = Sum::pseudo(&src, &dst, 58, frame.len() - 54).add(&frame[54..]).checksum();
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
}
