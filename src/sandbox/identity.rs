//! Which user to become.

use std::fs;

use caps::Capability;
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid};

use crate::config::{Id, RunAs};
use crate::sys::caps::effective;

/// User and group, as numbers of this user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

impl Identity {
    /// The kernel's overflow ids, which own nothing.
    pub const NOBODY: Identity = Identity { uid: 65534, gid: 65534 };

    /// What `--runas` means here; `None`: what we are. To be called while there are files.
    ///
    /// # Errors
    /// A sentence: unknown, refused, or not permitted.
    pub fn of(given: &RunAs) -> Result<Option<Identity>, String> {
        let (uid, primary) = user(&given.user)?;
        let gid = given.group.as_ref().map_or(Ok(primary), group)?;
        if (geteuid().as_raw(), getegid().as_raw()) == (uid, gid) && uid != 0 {
            return Ok(None);
        }
        if !may_change() {
            return Err(format!(
                "cannot become user {uid} and group {gid} (option '--runas'): only root may, with CAP_SETUID and \
                 CAP_SETGID; leave it out"
            ));
        }
        Ok(Some(Identity { uid, gid }))
    }

    /// `nobody` for a process started as the host's root. Another user namespace's root is an ordinary user already, and
    /// `nobody` need not exist there.
    pub fn instead_of_root() -> Option<Identity> {
        if !geteuid().is_root() || !may_change() || !is_initial_user_namespace() {
            return None;
        }
        let found = User::from_name("nobody").ok().flatten().filter(|u| !u.uid.is_root());
        Some(found.map_or(Identity::NOBODY, |u| Identity { uid: u.uid.as_raw(), gid: u.gid.as_raw() }))
    }
}

fn may_change() -> bool {
    effective(Capability::CAP_SETUID) && effective(Capability::CAP_SETGID)
}

fn is_initial_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// User and primary group.
fn user(id: &Id) -> Result<(u32, u32), String> {
    match id {
        // A number without an entry stands for itself.
        Id::Number(uid) => {
            let entry = User::from_uid(Uid::from_raw(*uid)).ok().flatten();
            Ok((*uid, entry.map_or(*uid, |u| u.gid.as_raw())))
        }
        Id::Name(name) => {
            let entry =
                User::from_name(name).map_err(|e| format!("cannot look up user '{name}' (option '--runas'): {e}"))?;
            let entry = entry.ok_or_else(|| {
                format!("unknown user '{name}' (option '--runas'): `getent passwd` lists those there are")
            })?;
            if entry.uid.is_root() {
                return Err(format!("user '{name}' is root (option '--runas'): give '0' if that is what you want"));
            }
            Ok((entry.uid.as_raw(), entry.gid.as_raw()))
        }
    }
}

fn group(id: &Id) -> Result<u32, String> {
    let name = match id {
        Id::Number(gid) => return Ok(*gid),
        Id::Name(name) => name,
    };
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(Gid::as_raw(group.gid)),
        Ok(None) => Err(format!("unknown group '{name}' (option '--runas'): `getent group` lists those there are")),
        Err(e) => Err(format!("cannot look up group '{name}' (option '--runas'): {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up() {
        let name = |s: &str| Id::Name(s.into());
        assert_eq!(user(&Id::Number(0)), Ok((0, 0)));
        assert_eq!(user(&Id::Number(0x7654_3210)), Ok((0x7654_3210, 0x7654_3210)));
        assert!(user(&name("root")).unwrap_err().contains("is root"));
        assert!(user(&name("no-such-user")).unwrap_err().contains("unknown user 'no-such-user'"));
        assert!(group(&name("no-such-group")).unwrap_err().contains("unknown group 'no-such-group'"));
        assert_eq!(group(&Id::Number(7)), Ok(7));
    }
}
