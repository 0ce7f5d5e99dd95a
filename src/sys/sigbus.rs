//! Shared memory whose file is cut short under our hands: to touch it then is a SIGBUS, which would be the end of the process.
//! Watched ranges get memory of our own instead, and a mark that they are lost.
//!
//! System calls: rt_sigaction (once), mmap (in the handler).

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// A range that is watched while this lives; it must be mapped that long.
#[derive(Debug)]
pub struct Watch(&'static Slot);

#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    /// First byte, or [`NOWHERE`], and the one behind the last.
    from: AtomicUsize,
    to: AtomicUsize,
    lost: AtomicBool,
}

/// Ranges that can be watched at once, in the whole process: what a signal handler may look at has to be static.
pub const RANGES: usize = 256;
static SLOTS: [Slot; RANGES] = [const {
    Slot {
        taken: AtomicBool::new(false),
        from: AtomicUsize::new(NOWHERE),
        to: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; RANGES];
const NOWHERE: usize = usize::MAX;
static INSTALLED: Once = Once::new();

impl Watch {
    /// Watches `len` bytes at `start`, the whole of a mapping of its own.
    ///
    /// # Errors
    /// No room for more ranges, or the kernel's.
    pub fn new(start: *mut u8, len: usize) -> io::Result<Watch> {
        let mut outcome = Ok(());
        INSTALLED.call_once(|| outcome = install());
        outcome?;
        let slot = SLOTS.iter().find(|s| !s.taken.swap(true, Ordering::AcqRel));
        let slot = slot.ok_or_else(|| io::Error::other(format!("more than {RANGES} ranges of shared memory")))?;
        slot.lost.store(false, Ordering::Relaxed);
        slot.to.store(start as usize + len, Ordering::SeqCst);
        slot.from.store(start as usize, Ordering::SeqCst);
        Ok(Watch(slot))
    }

    /// True if memory was missing when it was touched. From then on the range is ours alone.
    pub fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.from.store(NOWHERE, Ordering::SeqCst);
        self.0.to.store(0, Ordering::SeqCst);
        self.0.taken.store(false, Ordering::Release);
    }
}

fn install() -> io::Result<()> {
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
    let action = SigAction::new(SigHandler::SigAction(on_sigbus), flags, SigSet::empty());
    // SAFETY: the handler touches atomics only and calls mmap and sigaction, system calls both.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    Ok(())
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a valid structure, in which SIGBUS has an address.
    let at = unsafe { (*info).si_addr() } as usize;
    for slot in &SLOTS {
        let (from, to) = (slot.from.load(Ordering::SeqCst), slot.to.load(Ordering::SeqCst));
        // Another thread may give the slot to another range meanwhile. Ours stays while we are in it. One that touches the same
        // range at the same time replaces it once more: nobody relies on what is there.
        if !(from..to).contains(&at) || slot.from.load(Ordering::SeqCst) != from {
            continue;
        }
        slot.lost.store(true, Ordering::Relaxed);
        // SAFETY: replaces a mapping that its owner has us watch, and to which nobody has references (that memory is shared
        // with others), by one of the same size.
        let mapped = unsafe {
            libc::mmap(
                from as *mut libc::c_void,
                to - from,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped != libc::MAP_FAILED {
            return;
        }
    }
    // Not ours: the access is made again on return, and ends the process as it always did.
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_DFL is no handler.
    let _ = unsafe { sigaction(Signal::SIGBUS, &default) };
}
