//! What driver and device have agreed on, and what follows for headers.

use anyhow::{Result, bail, ensure};
use spelt::wire::ETH_LEN;
use spelt::wire::checksum::Sum;
use spelt::wire::vnet::VNET_V1_LEN;
use virtio_bindings::{virtio_config, virtio_net as net, virtio_ring};

use super::memory::Memory;

/// Features that this driver makes use of.
pub const WANTED: u64 = bit(virtio_config::VIRTIO_F_VERSION_1)
    | bit(net::VIRTIO_NET_F_MRG_RXBUF)
    | bit(net::VIRTIO_NET_F_CSUM)
    | bit(net::VIRTIO_NET_F_GUEST_CSUM)
    | bit(net::VIRTIO_NET_F_HOST_TSO4)
    | bit(net::VIRTIO_NET_F_HOST_TSO6)
    | bit(net::VIRTIO_NET_F_HOST_USO)
    | bit(net::VIRTIO_NET_F_GUEST_TSO4)
    | bit(net::VIRTIO_NET_F_GUEST_TSO6)
    | bit(net::VIRTIO_NET_F_GUEST_USO4)
    | bit(net::VIRTIO_NET_F_GUEST_USO6)
    | bit(net::VIRTIO_NET_F_MQ)
    | bit(virtio_ring::VIRTIO_RING_F_EVENT_IDX);
/// The hypervisor's alone.
pub const PROTOCOL_FEATURES: u64 = bit(30);

pub const fn bit(n: u32) -> u64 {
    1 << n
}

/// The features of both sides.
#[derive(Clone, Copy)]
pub struct Agreed(pub u64);

impl Agreed {
    fn has(self, n: u32) -> bool {
        self.0 & bit(n) != 0
    }

    pub fn is_modern(self) -> bool {
        self.has(virtio_config::VIRTIO_F_VERSION_1)
    }

    pub fn event_index(self) -> bool {
        self.has(virtio_ring::VIRTIO_RING_F_EVENT_IDX)
    }

    pub fn mergeable(self) -> bool {
        self.has(net::VIRTIO_NET_F_MRG_RXBUF)
    }

    /// What the guest's kernel may leave to the device, in the tap's terms.
    pub fn offloads(self) -> libc::c_uint {
        if !self.has(net::VIRTIO_NET_F_CSUM) {
            return 0;
        }
        let tap = |feature, flags| if self.has(feature) { flags } else { 0 };
        libc::TUN_F_CSUM
            | tap(net::VIRTIO_NET_F_HOST_TSO4, libc::TUN_F_TSO4)
            | tap(net::VIRTIO_NET_F_HOST_TSO6, libc::TUN_F_TSO6)
            | tap(net::VIRTIO_NET_F_HOST_USO, libc::TUN_F_USO4 | libc::TUN_F_USO6)
    }
}

/// Whether the device sends nothing that was not agreed on.
pub fn check(header: &[u8; VNET_V1_LEN], agreed: &Agreed) -> Result<()> {
    let [flags, kind, .., low, high] = *header;
    let flags = u32::from(flags);
    let sums = net::VIRTIO_NET_HDR_F_NEEDS_CSUM | net::VIRTIO_NET_HDR_F_DATA_VALID;
    ensure!(flags & sums == 0 || agreed.has(net::VIRTIO_NET_F_GUEST_CSUM), "a frame that is not summed: {header:?}");
    let needed: &[u32] = match u32::from(kind) {
        net::VIRTIO_NET_HDR_GSO_NONE => &[],
        net::VIRTIO_NET_HDR_GSO_TCPV4 => &[net::VIRTIO_NET_F_GUEST_TSO4],
        net::VIRTIO_NET_HDR_GSO_TCPV6 => &[net::VIRTIO_NET_F_GUEST_TSO6],
        net::VIRTIO_NET_HDR_GSO_UDP_L4 => &[net::VIRTIO_NET_F_GUEST_USO4, net::VIRTIO_NET_F_GUEST_USO6],
        _ => bail!("a frame of an unknown kind: {header:?}"),
    };
    ensure!(needed.iter().all(|one| agreed.has(*one)), "a frame of a kind that was not agreed on: {header:?}");
    let unsummed = flags & net::VIRTIO_NET_HDR_F_NEEDS_CSUM == 0;
    ensure!(needed.is_empty() || !unsummed, "a large frame with a finished checksum: {header:?}");
    let buffers = u16::from_le_bytes([low, high]);
    ensure!(buffers == 1 || buffers > 1 && agreed.mergeable(), "a frame of {buffers} buffers");
    Ok(())
}

/// Makes a frame whose checksum the device vouches for one whose checksum is left to do, which is how a tap learns that it
/// need not verify it. The first `len` bytes of header and frame are at `at`.
pub fn vouch(memory: &Memory, at: usize, len: usize, header: &mut [u8; VNET_V1_LEN]) {
    let mut head = [0; HEAD_MAX];
    let head = &mut head[..(len - VNET_V1_LEN).min(HEAD_MAX)];
    memory.read(at + VNET_V1_LEN, head);
    let Some(Transport { start, offset, pseudo }) = transport(head) else { return };
    if start + offset + 2 > len - VNET_V1_LEN {
        return;
    }
    memory.write(at + VNET_V1_LEN + start + offset, &pseudo.to_be_bytes());
    header[0] = net::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
    header[6..8].copy_from_slice(&(start as u16).to_le_bytes());
    header[8..10].copy_from_slice(&(offset as u16).to_le_bytes());
    memory.write(at, header);
}

/// Where the transport header is and the checksum in that, and the sum over the pseudo-header.
struct Transport {
    start: usize,
    offset: usize,
    pseudo: u16,
}

/// Of an unfragmented TCP segment or UDP datagram.
fn transport(head: &[u8]) -> Option<Transport> {
    let be16 = |at: usize| Some(u16::from_be_bytes([*head.get(at)?, *head.get(at + 1)?]));
    let (protocol, addresses, start, end) = match be16(12)? {
        0x0800 if be16(20)? & 0x3fff == 0 => {
            let start = ETH_LEN + 4 * usize::from(head[14] & 15);
            (*head.get(23)?, 26..34, start, ETH_LEN + usize::from(be16(16)?))
        }
        0x86dd => (*head.get(20)?, 22..54, 54, 54 + usize::from(be16(18)?)),
        _ => return None,
    };
    let offset = match protocol {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    let len = end.checked_sub(start)?;
    let pseudo = Sum::new().add(head.get(addresses)?).add_u16(u16::from(protocol)).add_u32(len as u32).folded();
    Some(Transport { start, offset, pseudo })
}

/// Ethernet, IP with all options.
const HEAD_MAX: usize = 14 + 60;
