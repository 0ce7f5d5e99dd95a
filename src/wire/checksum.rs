//! The Internet checksum (RFC 1071), the one loop here that is worth vectorising.

use crate::base::Addr;

/// A running one's complement sum. Add parts in order; all but the last must have even length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    pub fn new() -> Sum {
        Sum(0)
    }

    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "an operator would hide that order and parity matter")]
    pub fn add(self, data: &[u8]) -> Sum {
        Sum(fold64(self.0 + sum_be(data)))
    }

    #[must_use]
    pub fn add_u16(self, v: u16) -> Sum {
        Sum(self.0 + u64::from(v))
    }

    #[must_use]
    pub fn add_u32(self, v: u32) -> Sum {
        Sum(self.0 + u64::from(v >> 16) + u64::from(v & 0xffff))
    }

    /// The pseudo-header of RFC 9293 §3.1 (IPv4) and RFC 8200 §8.1 (IPv6); both fold to the same sum.
    #[must_use]
    pub fn pseudo(src: &Addr, dst: &Addr, proto: u8, l4_len: usize) -> Sum {
        Sum::new().add(src.wire()).add(dst.wire()).add_u16(u16::from(proto)).add_u32(l4_len as u32)
    }

    /// Folded, not inverted: what stands in the field of a frame with a partial checksum.
    pub fn folded(self) -> u16 {
        let mut s = fold64(self.0);
        while s > 0xffff {
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    }

    /// The value for the header field. UDP callers send 0 as 0xffff (RFC 768).
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// True if a sum taken over a field with its checksum in place is right.
    pub fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

fn fold64(s: u64) -> u64 {
    (s & 0xffff_ffff) + (s >> 32)
}

/// Sum of big-endian 16-bit words, not folded; an odd last byte is padded with zero.
fn sum_be(data: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if data.len() >= 128 && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU was just found to have AVX2, the only requirement of the function.
        return unsafe { sum_be_avx2(data) };
    }
    sum_be_body(data)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_be_avx2(data: &[u8]) -> u64 {
    sum_be_body(data)
}

/// Adds native 32-bit words into 64-bit lanes, which the compiler vectorises, and swaps once at the end (RFC 1071 §2 B).
#[inline(always)]
fn sum_be_body(data: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut chunks = data.chunks_exact(32);
    for c in &mut chunks {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += u64::from(u32::from_ne_bytes([c[4 * i], c[4 * i + 1], c[4 * i + 2], c[4 * i + 3]]));
        }
    }
    let mut sum: u64 = lanes.iter().map(|l| fold64(*l)).sum();
    let rest = chunks.remainder();
    let mut pairs = rest.chunks_exact(2);
    for p in &mut pairs {
        sum += u64::from(u16::from_ne_bytes([p[0], p[1]]));
    }
    if let [last] = pairs.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    let mut s = fold64(fold64(sum));
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    u64::from(u16::from_be(s as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(data: &[u8]) -> u16 {
        let mut s = 0u32;
        for p in data.chunks(2) {
            s += u32::from(u16::from_be_bytes([p[0], *p.get(1).unwrap_or(&0)]));
            s = (s & 0xffff) + (s >> 16);
        }
        s as u16
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(Sum::new().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).folded(), 0xddf2);
    }

    #[test]
    fn agrees_with_the_naive_sum_at_every_length() {
        let data: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
        for len in (0..300).chain([1459, 1460, 65_495, 65_535, 70_000]) {
            assert_eq!(Sum::new().add(&data[..len]).folded(), naive(&data[..len]), "length {len}");
        }
        assert_eq!(Sum::new().add(&[0xff; 65_536]).folded(), naive(&[0xff; 65_536]));
    }

    #[test]
    fn parts_add_up() {
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        assert_eq!(Sum::new().add(&data[..512]).add(&data[512..]).folded(), Sum::new().add(&data).folded());
    }
}
