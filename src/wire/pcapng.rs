//! Blocks of the pcapng format (draft-ietf-opsawg-pcapng): one section, little-endian, one Ethernet interface, nanoseconds.
//! Each function appends one whole block.

use std::time::Duration;

/// Which way a frame goes, from where the interface is. The numbers are those of the format (§4.3.1, `epb_flags`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Inbound = 1,
    Outbound = 2,
}

/// What there is to say about a frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Since the epoch.
    pub time: Duration,
    /// The whole frame's; what follows may be less of it.
    pub len: usize,
    pub bytes: &'a [u8],
    pub direction: Direction,
    /// Frames before this one, and after the one before, that are not here.
    pub lost: u64,
    pub comment: Option<&'a str>,
}

/// What is known at the end.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    pub start: Duration,
    pub end: Duration,
    /// Frames that were to be here, and how many of those are not.
    pub received: u64,
    pub dropped: u64,
}

/// Section Header Block (§4.1): who writes, on what.
pub fn section(out: &mut Vec<u8>, application: &str, os: &str) {
    block(out, 0x0a0d_0d0a, |out| {
        out.extend(0x1a2b_3c4d_u32.to_le_bytes());
        out.extend(1_u16.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        // The section's length is not known yet.
        out.extend((-1_i64).to_le_bytes());
        option(out, SHB_OS, os.as_bytes());
        option(out, SHB_USERAPPL, application.as_bytes());
        option(out, END, &[]);
    });
}

/// Interface Description Block (§4.2). `snaplen`: bytes of a frame that are kept; 0: all.
pub fn interface(out: &mut Vec<u8>, name: &str, snaplen: u32) {
    block(out, 1, |out| {
        out.extend(LINKTYPE_ETHERNET.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(snaplen.to_le_bytes());
        option(out, IF_NAME, name.as_bytes());
        option(out, IF_TSRESOL, &[NANOSECONDS]);
        option(out, END, &[]);
    });
}

/// Enhanced Packet Block (§4.3).
pub fn packet(out: &mut Vec<u8>, p: &Packet<'_>) {
    block(out, 6, |out| {
        out.extend(INTERFACE.to_le_bytes());
        out.extend(time(p.time));
        out.extend((p.bytes.len() as u32).to_le_bytes());
        out.extend((p.len as u32).to_le_bytes());
        out.extend(p.bytes);
        pad(out);
        if let Some(text) = p.comment {
            option(out, COMMENT, text.as_bytes());
        }
        option(out, EPB_FLAGS, &(p.direction as u32).to_le_bytes());
        if p.lost > 0 {
            option(out, EPB_DROPCOUNT, &p.lost.to_le_bytes());
        }
        option(out, END, &[]);
    });
}

/// Interface Statistics Block (§4.6).
pub fn statistics(out: &mut Vec<u8>, s: &Statistics) {
    block(out, 5, |out| {
        out.extend(INTERFACE.to_le_bytes());
        out.extend(time(s.end));
        option(out, ISB_STARTTIME, &time(s.start));
        option(out, ISB_ENDTIME, &time(s.end));
        option(out, ISB_IFRECV, &s.received.to_le_bytes());
        option(out, ISB_IFDROP, &s.dropped.to_le_bytes());
        option(out, END, &[]);
    });
}

/// Length of what [`statistics`] appends.
pub const STATISTICS_LEN: usize = 12 + 12 + 4 * 12 + 4;

/// Type, length, body in whole words, length again (§3.1).
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    // Padding is counted from the beginning of the buffer: blocks are whole words, so that is the block's as well.
    debug_assert_eq!(start % 4, 0);
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let len = ((out.len() + 4 - start) as u32).to_le_bytes();
    out.extend(len);
    out[start + 4..start + 8].copy_from_slice(&len);
}

/// Code, length without padding, value (§3.5).
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(u16::MAX.into())];
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The upper half comes first, whatever the byte order.
fn time(t: Duration) -> [u8; 8] {
    let nanoseconds = t.as_nanos() as u64;
    let mut both = [0; 8];
    both[..4].copy_from_slice(&((nanoseconds >> 32) as u32).to_le_bytes());
    both[4..].copy_from_slice(&(nanoseconds as u32).to_le_bytes());
    both
}

const LINKTYPE_ETHERNET: u16 = 1;
/// The only one.
const INTERFACE: u32 = 0;
/// Ten to the power of minus this many seconds.
const NANOSECONDS: u8 = 9;
// Codes of options.
const END: u16 = 0;
const COMMENT: u16 = 1;
const SHB_OS: u16 = 3;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;
const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;

#[cfg(test)]
mod tests;
