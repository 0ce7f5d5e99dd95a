//! One virtqueue from the driver's side: a split ring (virtio 1.2 §2.7), an entry for each buffer.
//!
//! Neither side tells the other more than it asks for: with event indexes each says at which entry it wants to be told,
//! without them whether it does. The device is not believed what cannot be.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, Result, ensure};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::memory::{ENTRIES, Memory, Place};

pub struct Ring {
    memory: Arc<Memory>,
    pub place: Place,
    event_index: bool,
    pub kick: EventFd,
    pub call: EventFd,
    /// Entries that are the device's, by number.
    given: [bool; ENTRIES as usize],
    /// Entries offered; those of them the device was asked about; entries that have come back.
    offered: u16,
    kicked: u16,
    taken: u16,
    /// Notifications sent.
    pub kicks: u64,
}

impl Ring {
    pub fn new(memory: &Arc<Memory>, index: usize, event_index: bool) -> Result<Ring> {
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let ring = Ring {
            memory: Arc::clone(memory),
            place: memory.place(index),
            event_index,
            kick: event()?,
            call: event()?,
            given: [false; ENTRIES as usize],
            offered: 0,
            kicked: 0,
            taken: 0,
            kicks: 0,
        };
        ring.ignore();
        Ok(ring)
    }

    /// Offers the buffer of entry `id`: its first `len` bytes, to be written if `writable`. The device sees it at once.
    pub fn offer(&mut self, id: u16, len: usize, writable: bool) {
        let mut descriptor = [0; DESCRIPTOR];
        descriptor[..8].copy_from_slice(&self.memory.guest(self.place.buffer(id)).to_le_bytes());
        descriptor[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        descriptor[12..14].copy_from_slice(&(if writable { WRITE } else { 0 }).to_le_bytes());
        self.memory.write(self.place.descriptors + DESCRIPTOR * usize::from(id), &descriptor);
        let slot = self.place.available + 4 + 2 * usize::from(self.offered % ENTRIES);
        self.memory.store(slot, id, Ordering::Relaxed);
        self.given[usize::from(id)] = true;
        self.offered = self.offered.wrapping_add(1);
        self.memory.store(self.place.available + 2, self.offered, Ordering::Release);
    }

    /// Tells the device of what was offered, if it wants to know.
    pub fn kick(&mut self) -> Result<()> {
        if self.offered == self.kicked {
            return Ok(());
        }
        // Either the device, which writes its wish and then looks again, sees the index, or we see the wish.
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            let event = self.memory.load(self.place.used + 4 + ELEMENT * usize::from(ENTRIES), Ordering::Relaxed);
            self.offered.wrapping_sub(event).wrapping_sub(1) < self.offered.wrapping_sub(self.kicked)
        } else {
            self.memory.load(self.place.used, Ordering::Relaxed) & QUIET == 0
        };
        self.kicked = self.offered;
        if wanted {
            self.kicks += 1;
            self.kick.write(1)?;
        }
        Ok(())
    }

    /// The next entry that has come back, and how many bytes were written to it.
    pub fn take(&mut self) -> Result<Option<(u16, usize)>> {
        let used = self.memory.load(self.place.used + 2, Ordering::Acquire);
        if used == self.taken {
            return Ok(None);
        }
        let given = self.offered.wrapping_sub(self.taken);
        ensure!(used.wrapping_sub(self.taken) <= given, "more entries come back than the device has");
        let at = self.place.used + 4 + ELEMENT * usize::from(self.taken % ENTRIES);
        let (id, len) = (self.memory.load_u32(at), self.memory.load_u32(at + 4) as usize);
        let given = self.given.get_mut(id as usize).filter(|given| **given);
        *given.with_context(|| format!("entry {id} comes back and was not the device's"))? = false;
        self.taken = self.taken.wrapping_add(1);
        Ok(Some((id as u16, len)))
    }

    /// Asks to be told when `count` more entries, 1 or more, have come back. True: they have already, and nobody may tell.
    pub fn listen(&self, count: u16) -> bool {
        if self.event_index {
            let event = self.taken.wrapping_add(count).wrapping_sub(1);
            self.memory.store(self.place.available + 4 + 2 * usize::from(ENTRIES), event, Ordering::Relaxed);
        } else {
            self.memory.store(self.place.available, 0, Ordering::Relaxed);
        }
        // As in `kick`, the other way round.
        fence(Ordering::SeqCst);
        let used = self.memory.load(self.place.used + 2, Ordering::Acquire);
        used.wrapping_sub(self.taken) >= count
    }

    /// We look by ourselves for a while. With event indexes there is nothing to say: the device tells once, at the entry
    /// it was asked for.
    pub fn ignore(&self) {
        if !self.event_index {
            self.memory.store(self.place.available, QUIET, Ordering::Relaxed);
        }
    }

    /// What the device tells by.
    pub fn told(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }
}

/// Bytes of a descriptor, and of an element of the used ring.
const DESCRIPTOR: usize = 16;
const ELEMENT: usize = 8;
/// Of a descriptor: the device writes to it.
const WRITE: u16 = 2;
/// Of either side's flags: it wants no notification.
const QUIET: u16 = 1;
