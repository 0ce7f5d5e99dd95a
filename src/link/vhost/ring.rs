//! One virtqueue from the device's side: a split ring (virtio 1.2 §2.7).
//!
//! Chains of descriptors are taken from the available ring and come back through the used ring, in the order in which they
//! were taken. So `used.idx` alone tells what was in flight, and who comes after us (or we, started again) can go on there.
//! Used elements are written as they come and become the driver's at [`Ring::publish`], all of them together: a frame over several
//! buffers is never seen in part.
//!
//! The driver is not trusted: each number is read once, and the copy checked. A chain that makes no sense comes back unused; an
//! index that cannot be ends the ring's use.

use std::sync::atomic::{Ordering, fence};

use crate::sys::memory::{DirtyLog, GuestMemory, Piece, Window};

/// Largest ring (virtio 1.2 §2.7).
pub const NUM_MAX: u32 = 32768;
/// Descriptors in a chain: as many as a `sendmsg` of the driver's own kernel can have pieces.
const CHAIN_MAX: u32 = 1024;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Of `avail.flags`: the driver wants no notification. Of `used.flags`: we want none.
const NO_NOTIFICATION: u16 = 1;

/// Where the three parts are, by the hypervisor's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    /// Writes to the used ring are to be logged; the address is the guest's.
    pub log: Option<u64>,
}

/// Who writes to the buffers of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    FromGuest,
    ToGuest,
}

/// A chain of descriptors, whose pieces were given to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    pub id: u16,
    /// Bytes of all pieces; 0 for a chain that makes no sense, of which there are none.
    pub len: usize,
    /// Entries of the ring's own table that it takes up.
    pub entries: usize,
}

/// The driver's index is where it cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

#[derive(Debug)]
pub struct Ring {
    descriptors: Window,
    available: Window,
    used: Window,
    log: Option<u64>,
    num: u16,
    event_index: bool,
    direction: Direction,
    /// The entry of the available ring to take next, and where those end that we know of.
    next: u16,
    seen: u16,
    /// Where the next used element goes; how many the driver knows of; how many it had been told of by a notification.
    filled: u16,
    published: u16,
    notified: u16,
    /// We have not said that we do not want to be told.
    listening: bool,
}

impl Ring {
    /// A ring of `num` entries (a power of two up to [`NUM_MAX`]) from entry `base` on. `None`: it does not lie in the memory, or is not
    /// aligned as it has to be.
    pub fn map(
        memory: &GuestMemory,
        at: &Addresses,
        (num, base): (u16, u16),
        event_index: bool,
        direction: Direction,
    ) -> Option<Ring> {
        let n = usize::from(num);
        // Virtio 1.2 §2.7 asks for 16 bytes; drivers of its predecessor gave less.
        let descriptors = memory.window(at.descriptors, DESCRIPTOR * n, 8)?;
        let available = memory.window(at.available, 4 + 2 * n + 2, 2)?;
        let used = memory.window(at.used, 4 + ELEMENT * n + 2, 4)?;
        let filled = used.load_u16(2, Ordering::Acquire);
        Some(Ring {
            descriptors,
            available,
            used,
            log: at.log,
            num,
            event_index,
            direction,
            next: base,
            seen: base,
            filled,
            published: filled,
            notified: filled,
            listening: true,
        })
    }

    /// How many descriptors there are, in chains of one or more.
    pub fn num(&self) -> u16 {
        self.num
    }

    /// Where the entries end that we know of.
    pub fn seen(&self) -> u16 {
        self.seen
    }

    /// True if the driver has offered what we have not seen.
    pub fn has_more(&self) -> bool {
        self.available.load_u16(2, Ordering::Acquire) != self.seen
    }

    /// The entry to take next, were we to stop now.
    pub fn base(&self) -> u16 {
        self.next
    }

    /// Takes the next chain, and appends its pieces to `pieces`. `None`: the driver has offered no more.
    ///
    /// # Errors
    /// [`Broken`]: nothing in this ring can be relied on.
    pub fn take(&mut self, memory: &GuestMemory, pieces: &mut Vec<Piece>) -> Result<Option<Chain>, Broken> {
        if self.next == self.seen {
            self.look()?;
            if self.next == self.seen {
                return Ok(None);
            }
        }
        let entry = 4 + 2 * usize::from(self.next % self.num);
        let id = self.available.load_u16(entry, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        let before = pieces.len();
        let (len, entries) = self.walk(id, memory, pieces).unwrap_or_else(|| {
            pieces.truncate(before);
            (0, 0)
        });
        Ok(Some(Chain { id, len, entries }))
    }

    /// Chain `id` is the driver's again, with `len` bytes written to it, as soon as that is published.
    pub fn done(&mut self, id: u16, len: u32, log: Option<&DirtyLog>) {
        let at = 4 + ELEMENT * usize::from(self.filled % self.num);
        let mut element = [0; ELEMENT];
        element[..4].copy_from_slice(&u32::from(id).to_le_bytes());
        element[4..].copy_from_slice(&len.to_le_bytes());
        self.used.write(at, element);
        self.mark(log, at, ELEMENT);
        self.filled = self.filled.wrapping_add(1);
    }

    /// The driver may have what is done. True if it wants to be told, by its call descriptor.
    pub fn publish(&mut self, log: Option<&DirtyLog>) -> bool {
        if self.filled != self.published {
            self.used.store_u16(2, self.filled, Ordering::Release);
            self.mark(log, 2, 2);
            self.published = self.filled;
        }
        if self.published == self.notified {
            return false;
        }
        // Either the driver, which writes its wish and then looks again, sees the index, or we see the wish.
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            let event = self.available.load_u16(4 + 2 * usize::from(self.num), Ordering::Relaxed);
            self.published.wrapping_sub(event).wrapping_sub(1) < self.published.wrapping_sub(self.notified)
        } else {
            self.available.load_u16(0, Ordering::Relaxed) & NO_NOTIFICATION == 0
        };
        self.notified = self.published;
        wanted
    }

    /// Asks to be told when there is more than we know of. True: there is already, and nobody may tell.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn listen(&mut self, log: Option<&DirtyLog>) -> Result<bool, Broken> {
        self.listen_for(1, log)
    }

    /// The same, but need not be told before there are so many more. Whether that day comes is the driver's choice: there are
    /// other means needed to look again. Without event indexes it is told of each.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn listen_for(&mut self, more: u16, log: Option<&DirtyLog>) -> Result<bool, Broken> {
        self.listening = true;
        if self.event_index {
            let at = 4 + ELEMENT * usize::from(self.num);
            self.used.store_u16(at, self.seen.wrapping_add(more.saturating_sub(1)), Ordering::Relaxed);
            self.mark(log, at, 2);
        } else {
            self.used.store_u16(0, 0, Ordering::Relaxed);
            self.mark(log, 0, 2);
        }
        // As in `publish`, the other way round.
        fence(Ordering::SeqCst);
        let before = self.seen;
        self.look()?;
        Ok(self.seen != before)
    }

    /// We look by ourselves for a while. With event indexes there is nothing to say: the driver has passed the last one.
    pub fn ignore(&mut self, log: Option<&DirtyLog>) {
        if std::mem::take(&mut self.listening) && !self.event_index {
            self.used.store_u16(0, NO_NOTIFICATION, Ordering::Relaxed);
            self.mark(log, 0, 2);
        }
    }

    fn look(&mut self) -> Result<(), Broken> {
        let index = self.available.load_u16(2, Ordering::Acquire);
        if index.wrapping_sub(self.next) > self.num {
            return Err(Broken);
        }
        self.seen = index;
        Ok(())
    }

    /// Appends the pieces of the chain that begins at `head`; returns their bytes, and the entries of the ring's own table that
    /// it takes up. `None` if it makes no sense.
    fn walk(&self, head: u16, memory: &GuestMemory, pieces: &mut Vec<Piece>) -> Option<(usize, usize)> {
        let (mut indirect, mut entries) = (None, u32::from(self.num));
        let mut own = 0;
        let (mut at, mut total) = (u32::from(head), 0usize);
        // One more than there are descriptors is a loop.
        for _ in 0..CHAIN_MAX + 1 {
            if at >= entries {
                return None;
            }
            let raw = match indirect {
                Some(table) => memory.read(table + u64::from(at) * DESCRIPTOR as u64)?,
                None => {
                    own += 1;
                    self.descriptors.read(at as usize * DESCRIPTOR)
                }
            };
            let d = Descriptor::of(&raw);
            if d.flags & INDIRECT != 0 {
                // Virtio 1.2 §2.7.5.3.1: neither in a table nor with a successor.
                if indirect.is_some() || d.flags & NEXT != 0 || !d.len.is_multiple_of(DESCRIPTOR as u32) {
                    return None;
                }
                // The end of the table must be an address.
                d.address.checked_add(u64::from(d.len))?;
                (indirect, entries, at) = (Some(d.address), d.len / DESCRIPTOR as u32, 0);
                continue;
            }
            let writable = d.flags & WRITE != 0;
            if writable != (self.direction == Direction::ToGuest) {
                return None;
            }
            total = total.checked_add(d.len as usize)?;
            if !memory.pieces(d.address, d.len as usize, |p| pieces.push(p)) {
                return None;
            }
            if d.flags & NEXT == 0 {
                return Some((total, own));
            }
            at = u32::from(d.next);
        }
        None
    }

    fn mark(&self, log: Option<&DirtyLog>, at: usize, len: usize) {
        if let (Some(log), Some(address)) = (log, self.log) {
            log.mark(address.saturating_add(at as u64), len);
        }
    }
}

/// Bytes of a descriptor, and of an element of the used ring.
const DESCRIPTOR: usize = 16;
const ELEMENT: usize = 8;

struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn of(raw: &[u8; DESCRIPTOR]) -> Descriptor {
        let [a, b, c, d, e, f, g, h, l0, l1, l2, l3, f0, f1, n0, n1] = *raw;
        Descriptor {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}

#[cfg(test)]
mod tests;
