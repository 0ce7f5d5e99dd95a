//! Frames in a stream of bytes: each behind its length, 32 bits, big-endian, as QEMU's `-netdev stream` has it.

use crate::wire::{ETH_LEN, FRAME_MAX, be32};

/// Bytes in front of each frame.
pub const PREFIX_LEN: usize = 4;

/// A length that no frame has. What follows cannot be told apart any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength(pub u32);

/// Length of the frame at the front of the stream, without its prefix, if it is there as a whole.
///
/// # Errors
/// [`BadLength`]: shorter than an Ethernet header or longer than any frame.
pub fn front(stream: &[u8]) -> Result<Option<usize>, BadLength> {
    if stream.len() < PREFIX_LEN {
        return Ok(None);
    }
    let given = be32(stream, 0);
    match usize::try_from(given) {
        Ok(len) if (ETH_LEN..=FRAME_MAX).contains(&len) => Ok((stream.len() >= PREFIX_LEN + len).then_some(len)),
        _ => Err(BadLength(given)),
    }
}

/// What goes in front of a frame of `len` bytes.
pub fn prefix(len: usize) -> [u8; PREFIX_LEN] {
    (len as u32).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_are_there() {
        let mut stream = prefix(14).to_vec();
        stream.extend_from_slice(&[0; 14]);
        for n in 0..stream.len() {
            assert_eq!(front(&stream[..n]), Ok(None));
        }
        assert_eq!(front(&stream), Ok(Some(14)));
        stream.push(0);
        assert_eq!(front(&stream), Ok(Some(14)));
    }

    #[test]
    fn lengths_of_no_frame_are_refused_at_once() {
        for bad in [0, 1, 13, FRAME_MAX as u32 + 1, 1 << 24, u32::MAX] {
            assert_eq!(front(&bad.to_be_bytes()), Err(BadLength(bad)));
        }
        assert_eq!(front(&prefix(FRAME_MAX)), Ok(None));
    }

    proptest::proptest! {
        #[test]
        fn a_stream_cut_anywhere_yields_the_same_frames(
            frames in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 14..200), 0..20),
            cuts in proptest::collection::vec(1usize..300, 1..40),
        ) {
            let whole: Vec<u8> = frames.iter().flat_map(|f| [&prefix(f.len())[..], f].concat()).collect();
            let (mut stream, mut got, mut at) = (Vec::new(), Vec::new(), 0);
            for n in cuts.iter().cycle() {
                let end = (at + n).min(whole.len());
                stream.extend_from_slice(&whole[at..end]);
                at = end;
                while let Some(len) = front(&stream).unwrap() {
                    got.push(stream[PREFIX_LEN..PREFIX_LEN + len].to_vec());
                    stream.drain(..PREFIX_LEN + len);
                }
                if at == whole.len() {
                    break;
                }
            }
            proptest::prop_assert_eq!(got, frames);
            proptest::prop_assert!(stream.is_empty());
        }
    }
}
