//! The virtio-net header (virtio 1.2 §5.1.6) that tap and vhost-user put before each frame: which checksum is left to
//! do, and how a large frame is to be cut.

/// State of a frame's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Csum {
    /// In the frame, to be verified.
    #[default]
    Complete,
    /// In the frame or not, but vouched for by the transport (`VIRTIO_NET_HDR_F_DATA_VALID`).
    Valid,
    /// Only the pseudo-header is summed: sum from `start` to the end of the frame, store at `start + offset`.
    Partial { start: u16, offset: u16 },
}

/// How a frame longer than the MTU is to be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Gso {
    #[default]
    None,
    /// TCP with this many payload bytes a segment.
    Tcp(u16),
    /// UDP with this many payload bytes a datagram (USO).
    Udp(u16),
}

/// Offload metadata that travels with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    pub csum: Csum,
    pub gso: Gso,
}

impl Offload {
    /// Nothing left to do: a complete frame.
    pub const NONE: Offload = Offload { csum: Csum::Complete, gso: Gso::None };
}

/// Length of the header without `num_buffers`, as tap uses it by default.
pub const VNET_LEN: usize = 10;
/// Length of the header of virtio 1.0 and later, the number of buffers at its end included.
pub const VNET_V1_LEN: usize = 12;

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Reads the header a guest or the tap device wrote (native-endian fields, as tap does without `TUNSETVNETLE`).
/// `None` for a GSO type we never offered, or a GSO frame without a segment size.
pub fn read(h: &[u8; VNET_LEN]) -> Option<Offload> {
    read_as(h, u16::from_ne_bytes)
}

/// The same with the little-endian fields of virtio 1.0.
pub fn read_v1(h: &[u8; VNET_V1_LEN]) -> Option<Offload> {
    read_as(h.first_chunk()?, u16::from_le_bytes)
}

fn read_as(h: &[u8; VNET_LEN], number: fn([u8; 2]) -> u16) -> Option<Offload> {
    let field = |at: usize| number([h[at], h[at + 1]]);
    let csum = if h[0] & F_NEEDS_CSUM != 0 {
        Csum::Partial { start: field(6), offset: field(8) }
    } else if h[0] & F_DATA_VALID != 0 {
        Csum::Valid
    } else {
        Csum::Complete
    };
    let size = field(4);
    let gso = match h[1] & !GSO_ECN {
        GSO_NONE => Gso::None,
        _ if size == 0 => return None,
        GSO_TCPV4 | GSO_TCPV6 => Gso::Tcp(size),
        GSO_UDP_L4 => Gso::Udp(size),
        _ => return None,
    };
    Some(Offload { csum, gso })
}

/// Writes the header for a frame of ours. `v6`: the frame is IPv6; `header_bytes`: Ethernet to transport header included.
pub fn write(offload: &Offload, v6: bool, header_bytes: usize) -> [u8; VNET_LEN] {
    write_as(offload, v6, header_bytes, u16::to_ne_bytes)
}

/// The same with the little-endian fields of virtio 1.0; the number of buffers is left to whoever knows it.
pub fn write_v1(offload: &Offload, v6: bool, header_bytes: usize) -> [u8; VNET_V1_LEN] {
    let mut h = [0; VNET_V1_LEN];
    h[..VNET_LEN].copy_from_slice(&write_as(offload, v6, header_bytes, u16::to_le_bytes));
    h
}

fn write_as(offload: &Offload, v6: bool, header_bytes: usize, raw: fn(u16) -> [u8; 2]) -> [u8; VNET_LEN] {
    let mut h = [0; VNET_LEN];
    match offload.csum {
        Csum::Complete => {}
        Csum::Valid => h[0] = F_DATA_VALID,
        Csum::Partial { start, offset } => {
            h[0] = F_NEEDS_CSUM;
            h[6..8].copy_from_slice(&raw(start));
            h[8..10].copy_from_slice(&raw(offset));
        }
    }
    let (kind, size) = match offload.gso {
        Gso::None => return h,
        Gso::Tcp(size) => (if v6 { GSO_TCPV6 } else { GSO_TCPV4 }, size),
        Gso::Udp(size) => (GSO_UDP_L4, size),
    };
    h[1] = kind;
    h[2..4].copy_from_slice(&raw(header_bytes as u16));
    h[4..6].copy_from_slice(&raw(size));
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_the_round_trip() {
        for gso in [Gso::None, Gso::Tcp(1460), Gso::Udp(1200)] {
            for csum in [Csum::Complete, Csum::Valid, Csum::Partial { start: 34, offset: 16 }] {
                let o = Offload { csum, gso };
                assert_eq!(read(&write(&o, false, 54)), Some(o));
                assert_eq!(read(&write(&o, true, 74)), Some(o));
            }
        }
    }

    #[test]
    fn unknown_or_sizeless_gso_is_refused() {
        assert_eq!(read(&[0, 3, 0, 0, 1, 0, 0, 0, 0, 0]), None);
        assert_eq!(read(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
