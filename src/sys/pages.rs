//! Memory in pages of its own, which go when it goes: whoever else was given them keeps them, and nobody else ever gets them.
//!
//! System calls: mmap, munmap.

use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Zeroed at first. Pages that were never touched cost nothing.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the mapping is owned like a `Vec`'s memory, and does not care which thread uses it.
unsafe impl Send for Pages {}

impl Pages {
    /// # Panics
    /// If `len` is 0, or the kernel has no memory, as with any allocation.
    pub fn new(len: usize) -> Pages {
        let size = NonZeroUsize::new(len).expect("some bytes are asked for");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that is there.
        let start = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) };
        Pages { start: start.expect("the kernel has memory"), len }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes at `start` are ours until drop; the borrow keeps others from writing.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no borrow of it lives any more.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}
