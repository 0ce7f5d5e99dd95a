//! Capabilities: which we have, and giving them up.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};

/// True if the effective set holds `cap`.
pub fn effective(cap: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false)
}

/// Makes what is permitted effective again, as after a change of user.
///
/// # Errors
/// The kernel's.
pub fn raise_permitted() -> io::Result<()> {
    let held = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &held).map_err(io::Error::other)
}

/// Empties every set but `keep` (in permitted and effective). The bounding set can only shrink with CAP_SETPCAP; without
/// it the call leaves that set alone, which no_new_privs makes harmless.
///
/// # Errors
/// The kernel's, when permitted or effective capabilities could not be dropped.
pub fn drop_all_but(keep: &[Capability]) -> io::Result<()> {
    if effective(Capability::CAP_SETPCAP) {
        // A capability that this kernel does not know yet reads as an error, and needs no dropping.
        for c in caps::all() {
            if caps::has_cap(None, CapSet::Bounding, c).unwrap_or(false) {
                caps::drop(None, CapSet::Bounding, c).map_err(io::Error::other)?;
            }
        }
    }
    // A kernel without ambient capabilities (before 4.3) refuses; there is nothing to clear there.
    let _ = caps::clear(None, CapSet::Ambient);
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    let held = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let left: CapsHashSet = keep.iter().copied().filter(|c| held.contains(c)).collect();
    caps::set(None, CapSet::Effective, &left).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &left).map_err(io::Error::other)
}
