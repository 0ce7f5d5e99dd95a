//! Memory of a virtual machine, as its hypervisor shares it: several files, mapped; addresses of the guest, and the
//! hypervisor's own, translated.
//!
//! The guest may change it at any time, and the hypervisor may cut the files short. So no reference to it is ever made: what
//! is read is copied, by the access that is made once; lengths and bounds are checked on our side of the copy, and memory that
//! has gone is noticed ([`super::sigbus`]).
//!
//! System calls: mmap, munmap, fstat.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::iov::{Gather, Scatter};
use super::sigbus::Watch;

/// A file, or a part of it, mapped.
#[derive(Debug)]
struct Mapping {
    // Unwatched before it is unmapped.
    watch: Watch,
    pages: Pages,
    /// Where it begins in `pages`, whose own beginning suits the file's.
    at: usize,
    len: usize,
}

/// Whole pages of a file, which need not stay open.
#[derive(Debug)]
struct Pages {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: memory that nobody has references to may be used by any thread; all access is by copies and atomics.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(file: &File, offset: u64, len: usize) -> io::Result<Pages> {
        let size = NonZeroUsize::new(len).ok_or_else(|| io::Error::other("no such range"))?;
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice touches nothing that is there.
        let start = unsafe { mmap(None, size, access, flags, file, offset) }?;
        Ok(Pages { start, len })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever uses it has this value.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

impl Mapping {
    fn new(file: OwnedFd, offset: u64, len: u64) -> io::Result<Mapping> {
        let file = File::from(file);
        // Of hugetlbfs only whole huge pages can be mapped; st_blksize is their size there and no smaller than a page elsewhere.
        let page = file.metadata()?.blksize().clamp(4096, 1 << 30);
        let from = offset - offset % page;
        let at = (offset - from) as usize;
        let all = len.checked_add(at as u64).and_then(|n| n.checked_next_multiple_of(page));
        let all = all.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| io::Error::other("too long"))?;
        let end = from.checked_add(all as u64).filter(|_| len > 0).ok_or_else(|| io::Error::other("no such range"))?;
        let size = file.metadata()?.len();
        // A last page that the file does not fill is there nevertheless.
        if end > size.next_multiple_of(page) || offset + len > size {
            return Err(io::Error::other(format!("the file has {size} bytes, but {} are named", offset + len)));
        }
        let pages = Pages::new(&file, from, all)?;
        Ok(Mapping { watch: Watch::new(pages.start.as_ptr().cast(), all)?, pages, at, len: len as usize })
    }

    fn is_within(&self, at: usize, len: usize) -> bool {
        at.checked_add(len).is_some_and(|end| end <= self.len)
    }

    /// # Panics
    /// If there are no `len` bytes at `at`.
    fn pointer(&self, at: usize, len: usize) -> *mut u8 {
        assert!(self.is_within(at, len));
        self.pages.start.as_ptr().cast::<u8>().wrapping_add(self.at + at)
    }
}

/// A range of the guest's memory and what it is called by.
#[derive(Clone, Debug)]
pub struct Region {
    /// The guest's address of its first byte, and the hypervisor's.
    pub guest: u64,
    pub user: u64,
    mapping: Arc<Mapping>,
}

impl Region {
    /// `len` bytes of `file` from `offset` on.
    ///
    /// # Errors
    /// What is wrong with them, or the kernel's.
    pub fn map(file: OwnedFd, offset: u64, len: u64, guest: u64, user: u64) -> io::Result<Region> {
        if guest.checked_add(len).is_none() || user.checked_add(len).is_none() || offset.checked_add(len).is_none() {
            return Err(io::Error::other("it goes beyond the end of all addresses"));
        }
        Ok(Region { guest, user, mapping: Arc::new(Mapping::new(file, offset, len)?) })
    }

    pub fn len(&self) -> u64 {
        self.mapping.len as u64
    }

    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }
}

/// Bytes in one region: see [`GuestMemory::pieces`].
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    region: u32,
    at: usize,
    len: usize,
}

impl Piece {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part after the first `n` bytes, or nothing.
    #[must_use]
    pub fn skip(self, n: usize) -> Piece {
        let n = n.min(self.len);
        Piece { region: self.region, at: self.at + n, len: self.len - n }
    }

    /// The first `n` bytes, or all.
    #[must_use]
    pub fn first(self, n: usize) -> Piece {
        Piece { len: self.len.min(n), ..self }
    }
}

/// All of the guest's memory, as it was told last.
#[derive(Clone, Debug, Default)]
pub struct GuestMemory {
    /// By the guest's addresses, which do not overlap.
    regions: Vec<Region>,
}

impl GuestMemory {
    /// With one more region.
    ///
    /// # Errors
    /// It overlaps another.
    pub fn with(&self, region: Region) -> io::Result<GuestMemory> {
        let at = self.regions.partition_point(|r| r.guest < region.guest);
        let before = at.checked_sub(1).is_some_and(|i| self.regions[i].guest + self.regions[i].len() > region.guest);
        let behind = self.regions.get(at).is_some_and(|r| region.guest + region.len() > r.guest);
        if before || behind {
            return Err(io::Error::other("it overlaps another region"));
        }
        let mut regions = self.regions.clone();
        regions.insert(at, region);
        Ok(GuestMemory { regions })
    }

    /// True if there is a region with these addresses and this length.
    pub fn has(&self, guest: u64, user: u64, len: u64) -> bool {
        self.regions.iter().any(|r| (r.guest, r.user, r.len()) == (guest, user, len))
    }

    /// Without the region that has these addresses and this length, if there is one.
    pub fn without(&self, guest: u64, user: u64, len: u64) -> Option<GuestMemory> {
        let is_it = |r: &Region| (r.guest, r.user, r.len()) == (guest, user, len);
        let mut regions = self.regions.clone();
        regions.remove(regions.iter().position(is_it)?);
        Some(GuestMemory { regions })
    }

    /// Number of regions.
    pub fn regions(&self) -> usize {
        self.regions.len()
    }

    /// True if a part of it has been taken away under our hands.
    pub fn is_lost(&self) -> bool {
        self.regions.iter().any(|r| r.mapping.watch.is_lost())
    }

    /// Calls `take` with the pieces of the `len` bytes at the guest's address. False, and it may have been called already, if
    /// they are not all there.
    pub fn pieces(&self, mut guest: u64, mut len: usize, mut take: impl FnMut(Piece)) -> bool {
        while len > 0 {
            let Some((region, at)) = self.find(guest) else { return false };
            let here = len.min(self.regions[region].mapping.len - at);
            take(Piece { region: region as u32, at, len: here });
            len -= here;
            guest += here as u64;
        }
        true
    }

    fn find(&self, guest: u64) -> Option<(usize, usize)> {
        let region = self.regions.partition_point(|r| r.guest <= guest).checked_sub(1)?;
        let at = guest - self.regions[region].guest;
        (at < self.regions[region].len()).then_some((region, at as usize))
    }

    /// The guest's address of a piece.
    pub fn address(&self, piece: Piece) -> u64 {
        self.regions[piece.region as usize].guest + piece.at as u64
    }

    /// A copy of the `N` bytes at the guest's address, which lie in one region.
    pub fn read<const N: usize>(&self, guest: u64) -> Option<[u8; N]> {
        let (region, at) = self.find(guest)?;
        self.regions[region].mapping.is_within(at, N).then(|| {
            let mut copy = [0; N];
            self.copy_from(Piece { region: region as u32, at, len: N }, &mut copy);
            copy
        })
    }

    /// Copies the beginning of `piece` to `to`, as much as both have.
    pub fn copy_from(&self, piece: Piece, to: &mut [u8]) {
        let n = piece.len.min(to.len());
        let from = self.pointer(piece);
        // SAFETY: `pointer` has checked that `piece` is mapped, and `self` keeps it so; `to` is ours and has `n` bytes. A raw
        // copy makes no reference to memory that others may change; whatever it yields is checked by whoever uses it.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), n) };
    }

    /// Copies `from` to the beginning of `piece`, as much as both have.
    pub fn copy_to(&self, piece: Piece, from: &[u8]) {
        let n = piece.len.min(from.len());
        let to = self.pointer(piece);
        // SAFETY: as in `copy_from`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, n) };
    }

    /// For system calls that read it.
    pub fn gather(&self, piece: Piece) -> Gather<'_> {
        // SAFETY: `pointer` has checked that the bytes are mapped; `self` keeps them so for as long as it is borrowed.
        unsafe { Gather::of_shared(self.pointer(piece), piece.len) }
    }

    /// For system calls that write it.
    pub fn scatter(&self, piece: Piece) -> Scatter<'_> {
        // SAFETY: as in `gather`. Others may write there too, all of them through pointers.
        unsafe { Scatter::of_shared(self.pointer(piece), piece.len) }
    }

    fn pointer(&self, piece: Piece) -> *mut u8 {
        self.regions[piece.region as usize].mapping.pointer(piece.at, piece.len)
    }

    /// `len` bytes at the hypervisor's address `user`, in one region. `None` if they are not, or not aligned for numbers of
    /// `align` bytes.
    pub fn window(&self, user: u64, len: usize, align: usize) -> Option<Window> {
        let region = self.regions.iter().find(|r| user >= r.user && user - r.user < r.len())?;
        let at = (user - region.user) as usize;
        let (guest, mapping) = (region.guest + at as u64, &region.mapping);
        let aligned = mapping.is_within(at, len) && (mapping.pointer(at, len) as usize).is_multiple_of(align);
        aligned.then(|| Window { mapping: mapping.clone(), at, len, guest })
    }
}

/// A range for numbers that both sides read and write.
#[derive(Clone, Debug)]
pub struct Window {
    mapping: Arc<Mapping>,
    at: usize,
    len: usize,
    guest: u64,
}

impl Window {
    /// The guest's address of its first byte.
    pub fn guest(&self) -> u64 {
        self.guest
    }

    /// # Panics
    /// Like all others: if the number is not wholly inside, or not aligned.
    pub fn load_u16(&self, at: usize, order: Ordering) -> u16 {
        u16::from_le(self.atomic_u16(at).load(order))
    }

    pub fn store_u16(&self, at: usize, value: u16, order: Ordering) {
        self.atomic_u16(at).store(value.to_le(), order);
    }

    fn atomic_u16(&self, at: usize) -> &AtomicU16 {
        let pointer = self.pointer(at, 2).cast::<u16>();
        assert!(pointer.is_aligned());
        // SAFETY: aligned and inside the mapping, which lives as long as `self`. Others only read and write it as one number,
        // or if they do not, are not bound by our language.
        unsafe { AtomicU16::from_ptr(pointer) }
    }

    /// A copy of the `N` bytes at `at`.
    pub fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        let from = self.pointer(at, N);
        let mut copy = [0; N];
        // SAFETY: `pointer` has checked the range; see `GuestMemory::copy_from`.
        unsafe { std::ptr::copy_nonoverlapping(from, copy.as_mut_ptr(), N) };
        copy
    }

    pub fn write<const N: usize>(&self, at: usize, bytes: [u8; N]) {
        let to = self.pointer(at, N);
        // SAFETY: as in `read`, the other way.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, N) };
    }

    fn pointer(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len));
        self.mapping.pointer(self.at + at, len)
    }
}

/// Which of the guest's pages have been written: a bit for each, in memory that the hypervisor reads during migration. Several
/// threads may mark at once: bits are set atomically.
#[derive(Debug)]
pub struct DirtyLog(Mapping);

impl DirtyLog {
    /// # Errors
    /// What is wrong with the range, or the kernel's.
    pub fn map(file: OwnedFd, offset: u64, len: u64) -> io::Result<DirtyLog> {
        Mapping::new(file, offset, len).map(DirtyLog)
    }

    /// `len` bytes at the guest's address have been written. What the log has no room for is left out.
    pub fn mark(&self, guest: u64, len: usize) {
        if len == 0 {
            return;
        }
        for page in guest / LOG_PAGE..=guest.saturating_add(len as u64 - 1) / LOG_PAGE {
            let byte = (page / 8) as usize;
            if !self.0.is_within(byte, 1) {
                return;
            }
            // SAFETY: inside the mapping, which lives as long as `self`; the hypervisor changes it atomically too.
            unsafe { AtomicU8::from_ptr(self.0.pointer(byte, 1)) }.fetch_or(1 << (page % 8), Ordering::Relaxed);
        }
    }
}

/// Bytes a bit stands for.
const LOG_PAGE: u64 = 4096;

/// Pieces of the guest's memory that stay where they are while somebody uses them.
#[derive(Debug, Default)]
pub struct Lent {
    memory: Option<Arc<GuestMemory>>,
    /// In `memory`, which is not replaced before all are forgotten.
    pieces: Vec<Gather<'static>>,
}

impl Lent {
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// # Panics
    /// If there are pieces of another memory.
    pub fn push(&mut self, memory: &Arc<GuestMemory>, piece: Piece) {
        match &self.memory {
            Some(same) if Arc::ptr_eq(same, memory) => {}
            _ => {
                assert!(self.pieces.is_empty());
                self.memory = Some(memory.clone());
            }
        }
        let pointer = memory.pointer(piece);
        // SAFETY: `pointer` has checked that the bytes are mapped, and `self` keeps their memory as long as the piece. It
        // is given out for as long as `self` is borrowed only.
        self.pieces.push(unsafe { Gather::of_shared(pointer, piece.len) });
    }

    /// Those from `from` to before `to`.
    pub fn get(&self, from: usize, to: usize) -> &[Gather<'_>] {
        &self.pieces[from..to]
    }

    pub fn clear(&mut self) {
        self.pieces.clear();
        self.memory = None;
    }
}

#[cfg(test)]
mod tests;
