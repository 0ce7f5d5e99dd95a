//! The program's own code in memory: what only the start has used need not stay there.
//!
//! System calls: openat, read, close (once); madvise.

use std::io;

/// Mappings of files that this process has not changed a byte of: code and constants.
#[derive(Debug)]
pub struct Clean(Vec<(usize, usize)>);

impl Clean {
    /// As they are now, by /proc.
    ///
    /// # Errors
    /// The kernel's.
    pub fn list() -> io::Result<Clean> {
        Ok(Clean(clean(&std::fs::read_to_string("/proc/self/smaps")?)))
    }

    /// Lets go of all of their pages. Those that are used come back from the file, which the kernel has in memory anyway.
    ///
    /// # Errors
    /// The kernel's.
    pub fn let_go(&self) -> io::Result<()> {
        for (start, end) in &self.0 {
            // SAFETY: the range was a mapping of a file that cannot be written to and of which no page was ours alone: what is
            // read there afterwards is the file's, as before. Mappings of the program and its libraries are never taken away.
            super::result(unsafe { libc::madvise(*start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) })?;
        }
        Ok(())
    }
}

/// Those of a file, not writable, without a page of our own (which relocations make).
fn clean(smaps: &str) -> Vec<(usize, usize)> {
    let (mut found, mut candidate) = (Vec::new(), None);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(range) = range(first) {
            let (mode, path) = (words.next().unwrap_or_default(), words.nth(3).unwrap_or_default());
            candidate = (mode.starts_with('r') && mode.ends_with('p') && !mode.contains('w') && path.starts_with('/'))
                .then_some(range);
        } else if first == "Anonymous:" && words.next() == Some("0") {
            found.extend(candidate.take());
        }
    }
    found
}

fn range(text: &str) -> Option<(usize, usize)> {
    let (start, end) = text.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_files_own_is_let_go() {
        let entry = |range: &str, mode: &str, path: &str, anonymous: u32| {
            format!("{range} {mode} 00001000 fe:00 123   {path}\nSize: 4 kB\nRss: 4 kB\nAnonymous: {anonymous} kB\n")
        };
        let smaps = [
            entry("1000-2000", "r-xp", "/bin/x", 0),
            entry("2000-3000", "r--p", "/bin/x", 4),
            entry("3000-4000", "r--p", "/bin/x", 0),
            entry("4000-5000", "rw-p", "/bin/x", 0),
            entry("5000-6000", "r-xp", "[vdso]", 0),
            entry("6000-7000", "r--s", "/dev/shm/x", 0),
            entry("7000-8000", "r--p", "", 0),
        ];
        assert_eq!(clean(&smaps.concat()), [(0x1000, 0x2000), (0x3000, 0x4000)]);
    }

    #[test]
    fn the_program_goes_on_without_them() {
        let all = Clean::list().unwrap();
        assert!(!all.0.is_empty());
        all.let_go().unwrap();
        assert_eq!(Clean::list().unwrap().0.len(), all.0.len());
    }
}
