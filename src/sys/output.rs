//! Descriptors of others' that are to be written to.
//!
//! System calls: fstat, fcntl (F_GETFL), once each.

use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};

/// What bytes may be written to without ever waiting for a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    File,
    /// Non-blocking.
    Pipe,
}

/// # Errors
/// What is wrong with it, to follow its name.
pub fn kind(fd: &impl AsFd) -> Result<Output, &'static str> {
    const LOST: &str = "cannot be looked at";
    let mode = fstat(fd).map_err(|_| LOST)?.st_mode;
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).map_err(|_| LOST)?);
    let kind = match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Output::File,
        SFlag::S_IFIFO => Output::Pipe,
        _ => return Err("is neither a regular file nor a pipe"),
    };
    // As O_PATH is not, which has the access mode of reading.
    if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        return Err("is not open for writing");
    }
    // The flag is the sender's as well as ours, so it is not for us to change.
    if kind == Output::Pipe && !flags.contains(OFlag::O_NONBLOCK) {
        return Err("is a pipe that makes its writers wait: it needs O_NONBLOCK");
    }
    Ok(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_pipes_that_can_be_written_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert_eq!(kind(&std::fs::File::create(&path).unwrap()), Ok(Output::File));
        assert_eq!(kind(&std::fs::File::open(&path).unwrap()), Err("is not open for writing"));
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
        assert_eq!((kind(&write), kind(&read)), (Ok(Output::Pipe), Err("is not open for writing")));
        let (_read, write) = nix::unistd::pipe().unwrap();
        assert!(kind(&write).unwrap_err().contains("O_NONBLOCK"));
        for other in ["/dev/null", "/"] {
            assert_eq!(kind(&std::fs::File::open(other).unwrap()), Err("is neither a regular file nor a pipe"));
        }
    }
}
