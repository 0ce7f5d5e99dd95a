//! The guest's memory, which both sides see, and what lies where in it: for each pair of queues two rings and their
//! buffers, one for each entry.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use nix::sys::memfd::{MFdFlags, memfd_create};
use spelt::wire::FRAME_MAX;
use spelt::wire::vnet::VNET_V1_LEN;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// Entries of a ring, as many as the rings of QEMU's cards have.
pub const ENTRIES: u16 = 256;
/// The guest's address of the first byte. Not 0, and not what it is for us: who mixes them up is found out.
const GUEST_BASE: u64 = 0x1_0000_0000;
/// Offsets in a ring's part: the available ring, the used one, the first buffer.
const AVAILABLE: usize = 0x4000;
const USED: usize = 0x8000;
const BUFFERS: usize = 0x10000;

/// A buffer that any frame fits in, with its header.
const WHOLE: usize = (VNET_V1_LEN + FRAME_MAX).next_multiple_of(4096);

/// A shared mapping. Both sides write to it at any time, so all access is atomic or a copy.
pub struct Memory {
    region: MmapRegion,
    /// Bytes of a buffer for frames to the guest.
    small: usize,
}

/// Where a ring and its buffers are: offsets, and the size of a buffer.
#[derive(Clone, Copy)]
pub struct Place {
    pub descriptors: usize,
    pub available: usize,
    pub used: usize,
    buffers: usize,
    pub room: usize,
}

impl Memory {
    /// For so many pairs. `small`: bytes of a buffer for frames to the guest; `None`: each is for a whole frame.
    pub fn new(pairs: usize, small: Option<usize>) -> anyhow::Result<Memory> {
        let small = small.unwrap_or(WHOLE);
        let len = pairs * pair_len(small);
        let file = File::from(memfd_create(c"guest", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(len as u64)?;
        let region = MmapRegion::from_file(FileOffset::new(file, 0), len)?;
        Ok(Memory { region, small })
    }

    pub fn file(&self) -> &File {
        self.region.file_offset().expect("it was made of one").file()
    }

    pub fn len(&self) -> usize {
        self.region.size()
    }

    /// Ring `index`: of each pair first the one to the guest, then the one from it.
    pub fn place(&self, index: usize) -> Place {
        let (start, room) = match index % 2 {
            0 => (index / 2 * pair_len(self.small), self.small),
            _ => (index / 2 * pair_len(self.small) + ring_len(self.small), WHOLE),
        };
        Place { descriptors: start, available: start + AVAILABLE, used: start + USED, buffers: start + BUFFERS, room }
    }

    /// The guest's address of an offset.
    pub fn guest(&self, offset: usize) -> u64 {
        GUEST_BASE + offset as u64
    }

    /// The hypervisor's address of an offset.
    pub fn user(&self, offset: usize) -> u64 {
        self.region.as_ptr() as u64 + offset as u64
    }

    pub fn load(&self, offset: usize, order: Ordering) -> u16 {
        u16::from_le(self.region.as_volatile_slice().load(offset, order).expect(INSIDE))
    }

    pub fn store(&self, offset: usize, value: u16, order: Ordering) {
        self.region.as_volatile_slice().store(value.to_le(), offset, order).expect(INSIDE);
    }

    pub fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le(self.region.as_volatile_slice().load(offset, Ordering::Relaxed).expect(INSIDE))
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.slice(offset, bytes.len()).copy_from(bytes);
    }

    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.slice(offset, bytes.len()).copy_to(bytes);
    }

    fn slice(&self, offset: usize, len: usize) -> VolatileSlice<'_> {
        self.region.get_slice(offset, len).expect(INSIDE)
    }

    fn vector(&self, offset: usize, len: usize) -> libc::iovec {
        libc::iovec { iov_base: self.slice(offset, len).ptr_guard_mut().as_ptr().cast(), iov_len: len }
    }

    /// Reads a frame of the tap to `offset`. Returns its length, the header included.
    pub fn read_from(&self, tap: &File, offset: usize, len: usize) -> Result<usize> {
        let vector = self.vector(offset, len);
        // SAFETY: one vector of bytes inside the mapping, which outlives the call; nothing here refers to them.
        let done = unsafe { libc::readv(tap.as_raw_fd(), &raw const vector, 1) };
        usize::try_from(done).map_err(|_| Error::last_os_error())
    }

    /// Writes a frame to the tap that lies at these places: offsets and lengths.
    pub fn write_to(&self, tap: &File, parts: impl Iterator<Item = (usize, usize)>) -> Result<usize> {
        let vectors: arrayvec::ArrayVec<libc::iovec, PARTS> =
            parts.map(|(offset, len)| self.vector(offset, len)).take(PARTS).collect();
        // SAFETY: so many vectors of bytes inside the mapping, which outlives the call.
        let done = unsafe { libc::writev(tap.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int) };
        usize::try_from(done).map_err(|_| Error::last_os_error())
    }
}

impl Place {
    /// Where the buffer of this entry is.
    pub fn buffer(&self, id: u16) -> usize {
        self.buffers + usize::from(id) * self.room
    }
}

fn ring_len(room: usize) -> usize {
    BUFFERS + (usize::from(ENTRIES) * room).next_multiple_of(4096)
}

fn pair_len(small: usize) -> usize {
    ring_len(small) + ring_len(WHOLE)
}

const INSIDE: &str = "places are inside the memory";
/// Buffers of one frame: all there are.
const PARTS: usize = ENTRIES as usize;
