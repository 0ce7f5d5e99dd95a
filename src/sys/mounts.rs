//! What is mounted.
//!
//! System calls: openat, read, close.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// True if something is mounted at this path, which has no links in it.
///
/// # Errors
/// The kernel's.
pub fn is_one(path: &Path) -> io::Result<bool> {
    Ok(has(&std::fs::read("/proc/self/mountinfo")?, path.as_os_str().as_bytes()))
}

/// The fifth field of a line is the place (proc_pid_mountinfo(5)); blanks, tabs, newlines and backslashes are octal there.
fn has(mountinfo: &[u8], path: &[u8]) -> bool {
    let escaped = |b: &u8| match b {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{b:03o}").into_bytes(),
        _ => vec![*b],
    };
    let path: Vec<u8> = path.iter().flat_map(escaped).collect();
    mountinfo.split(|b| *b == b'\n').any(|line| line.split(|b| *b == b' ').nth(4) == Some(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_whole_path() {
        let text = b"22 1 0:21 / / rw - ext4 /dev/vda rw\n23 22 0:22 /a /etc/my\\040file rw,nosuid - tmpfs tmpfs rw\n";
        for (path, there) in [("/", true), ("/etc/my file", true), ("/etc/my", false), ("/a", false), ("/etc", false)] {
            assert_eq!(has(text, path.as_bytes()), there, "{path}");
        }
        assert!(is_one(Path::new("/proc")).unwrap() && !is_one(Path::new("/proc/self")).unwrap());
    }
}
