//! TCP options that we understand, read and written (RFC 9293 §3.1, RFC 7323, RFC 2018).

use arrayvec::ArrayVec;

use super::{TCP_LEN, be16, be32};

/// The options of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Maximum segment size as on the wire: may be anything, 0 included. In SYNs only.
    pub mss: Option<u16>,
    /// Window shift as on the wire. In SYNs only.
    pub window_scale: Option<u8>,
    /// The sender takes SACK blocks. In SYNs only.
    pub sack_permitted: bool,
    pub timestamps: Option<Timestamps>,
}

/// Where the SACK blocks of a segment stand: in bytes from the start of its TCP header, and how many of these there are.
/// They are few segments', and would make every packet's parsed form half as large again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackPlace {
    pub at: u8,
    pub len: u8,
}

/// RFC 7323 §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the receiver's, as last heard; means something with an ACK only.
    pub echo: u32,
}

/// Data that has arrived behind a hole: up to four pairs of the first sequence number and the one after the last
/// (RFC 2018 §3), as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    blocks: [(u32, u32); SACK_BLOCKS_MAX],
    len: u8,
}

/// More than four do not fit into a header.
pub const SACK_BLOCKS_MAX: usize = 4;
/// With timestamps beside them one fewer does.
pub const SACK_BLOCKS_MAX_STAMPED: usize = 3;

/// Bytes that timestamps take in a segment, padding included.
pub const STAMP_LEN: usize = 12;

/// Options as written, padded to a multiple of four bytes.
pub type Written = ArrayVec<u8, 40>;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

impl TcpOptions {
    pub const NONE: TcpOptions = TcpOptions { mss: None, window_scale: None, sack_permitted: false, timestamps: None };

    /// What stands behind a TCP header; `syn`: of a SYN. The place of SACK blocks is counted from the header's start. RFC 9293 §3.2: unknown options are skipped by their length; a
    /// lying length ends the list, what came before counts.
    pub fn read(o: &[u8], syn: bool) -> (TcpOptions, SackPlace) {
        // Nearly every segment looks like that (RFC 7323, appendix A).
        if let [NOP, NOP, TIMESTAMPS, 10, stamp @ ..] = o
            && stamp.len() == 8
        {
            return (
                TcpOptions { timestamps: Some(Timestamps::read(stamp)), ..TcpOptions::NONE },
                SackPlace::default(),
            );
        }
        read_all(o, syn)
    }

    /// Each option once, in an order that needs little padding (RFC 7323, appendix A).
    ///
    /// # Panics
    /// If there are more SACK blocks than fit.
    pub fn write(&self, sack: &SackBlocks) -> Written {
        let mut out = Written::new();
        if let Some(mss) = self.mss {
            out.extend([MSS, 4]);
            out.extend(mss.to_be_bytes());
        }
        match (self.sack_permitted, self.timestamps.is_some()) {
            (true, true) => out.extend([SACK_PERMITTED, 2]),
            (true, false) => out.extend([NOP, NOP, SACK_PERMITTED, 2]),
            (false, true) => out.extend([NOP, NOP]),
            (false, false) => {}
        }
        if let Some(stamp) = self.timestamps {
            out.extend([TIMESTAMPS, 10]);
            out.extend(stamp.value.to_be_bytes());
            out.extend(stamp.echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            out.extend([NOP, WINDOW_SCALE, 3, shift]);
        }
        let blocks = sack.as_slice();
        if !blocks.is_empty() {
            out.extend([NOP, NOP, SACK, 2 + 8 * blocks.len() as u8]);
            for (from, to) in blocks {
                out.extend(from.to_be_bytes());
                out.extend(to.to_be_bytes());
            }
        }
        out
    }
}

impl Timestamps {
    /// `o`: 8 bytes at least.
    fn read(o: &[u8]) -> Timestamps {
        Timestamps { value: be32(o, 0), echo: be32(o, 4) }
    }
}

impl SackBlocks {
    pub const NONE: SackBlocks = SackBlocks { blocks: [(0, 0); SACK_BLOCKS_MAX], len: 0 };

    pub fn as_slice(&self) -> &[(u32, u32)] {
        &self.blocks[..usize::from(self.len)]
    }

    /// Blocks as they stand in an option.
    pub fn read(bytes: &[u8]) -> SackBlocks {
        let mut all = SackBlocks::default();
        for block in bytes.chunks_exact(8) {
            all.push((be32(block, 0), be32(block, 4)));
        }
        all
    }

    /// False if there is no place for it.
    pub fn push(&mut self, block: (u32, u32)) -> bool {
        let Some(place) = self.blocks.get_mut(usize::from(self.len)) else { return false };
        *place = block;
        self.len += 1;
        true
    }
}

fn read_all(all: &[u8], syn: bool) -> (TcpOptions, SackPlace) {
    let mut o = all;
    let mut sack = SackPlace::default();
    let mut found = TcpOptions::default();
    while let [kind, rest @ ..] = o {
        match *kind {
            END => break,
            NOP => o = rest,
            kind => {
                let Some(len) = rest.first().map(|l| usize::from(*l)).filter(|l| *l >= 2 && *l <= o.len()) else {
                    break;
                };
                match (kind, len) {
                    (MSS, 4) if syn => found.mss = Some(be16(o, 2)),
                    (WINDOW_SCALE, 3) if syn => found.window_scale = Some(o[2]),
                    (SACK_PERMITTED, 2) if syn => found.sack_permitted = true,
                    (TIMESTAMPS, 10) => found.timestamps = Some(Timestamps::read(&o[2..])),
                    (SACK, 10 | 18 | 26 | 34) => {
                        // A TCP header has 60 bytes at most.
                        sack = SackPlace { at: (TCP_LEN + all.len() - o.len() + 2) as u8, len: len as u8 - 2 };
                    }
                    _ => {}
                }
                o = &o[len..];
            }
        }
    }
    (found, sack)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: TcpOptions = TcpOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { value: 0x0102_0304, echo: 0xa0b0_c0d0 }),
    };

    /// As Linux writes them.
    #[test]
    fn a_syn_has_twenty_bytes() {
        let expected = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0xa0, 0xb0, 0xc0, 0xd0, 1, 3, 3, 7];
        assert_eq!(ALL.write(&SackBlocks::NONE).as_slice(), expected);
        assert_eq!(TcpOptions::read(&expected, true), (ALL, SackPlace::default()));
    }

    #[test]
    fn what_belongs_to_a_syn_is_read_from_one_only() {
        let read = TcpOptions::read(&ALL.write(&SackBlocks::NONE), false);
        assert_eq!(read.0, TcpOptions { timestamps: ALL.timestamps, ..TcpOptions::default() });
    }

    #[test]
    fn etherparse_reads_blocks() {
        let mut sack = SackBlocks::default();
        assert!([(1, 2), (30, 40), (500, 600)].into_iter().all(|b| sack.push(b)));
        let written = TcpOptions { timestamps: ALL.timestamps, ..TcpOptions::default() }.write(&sack);
        assert_eq!(written.len(), 40);
        let found: Vec<_> = etherparse::TcpOptionsIterator::from_slice(&written).map(Result::unwrap).collect();
        let expected =
            etherparse::TcpOptionElement::SelectiveAcknowledgement((1, 2), [Some((30, 40)), Some((500, 600)), None]);
        assert!(found.contains(&expected), "{found:?}");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            mss: Option<u16>, window_scale: Option<u8>, sack_permitted: bool, stamp: Option<(u32, u32)>,
            blocks in proptest::collection::vec(any::<(u32, u32)>(), 0..4),
        ) {
            let timestamps = stamp.map(|(value, echo)| Timestamps { value, echo });
            let syn = TcpOptions { mss, window_scale, sack_permitted, timestamps };
            let other = TcpOptions { timestamps, ..TcpOptions::default() };
            let mut sack = SackBlocks::default();
            prop_assert!(blocks.into_iter().all(|b| sack.push(b)));
            for (options, sack, is_syn) in [(syn, SackBlocks::NONE, true), (other, sack, false)] {
                let written = options.write(&sack);
                prop_assert_eq!(written.len() % 4, 0);
                let (read, place) = TcpOptions::read(&written, is_syn);
                prop_assert_eq!(read, options);
                let at = usize::from(place.at).saturating_sub(TCP_LEN);
                prop_assert_eq!(SackBlocks::read(&written[at..at + usize::from(place.len)]), sack);
            }
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..41), syn: bool) {
            TcpOptions::read(&bytes, syn);
        }
    }
}
