//! A log file that never outgrows its limit: when the next line would, the oldest part is dropped in place. No second
//! file, because there is no directory to create it in once the root is gone.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use log::Level;
use serde_json::Map;

use super::line::{elapsed, prefix, timed};
use super::message::{Message, Source};
use super::sink::Sink;
use crate::base::Instant;
use crate::config::LogFormat;
use crate::sys::blocked;

pub(super) struct LogFile {
    file: File,
    format: LogFormat,
    /// What the first line says, without this process, which may be another by then, and what rotation adds.
    program: String,
    /// Length of the first line as it stands in the file; 0: it does not yet.
    header_bytes: u64,
    size_bytes: u64,
    max_bytes: u64,
    /// A regular file; a terminal or a pipe cannot be rotated.
    regular: bool,
}

impl LogFile {
    /// Creates or truncates it, for its owner only.
    pub fn open(path: &Path, max_bytes: u64, format: LogFormat, source: &Source) -> io::Result<LogFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            // For pipes and terminals: lose lines rather than wait.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        let regular = file.metadata()?.is_file();
        if regular {
            // One that existed keeps its mode otherwise; that of somebody else who lets us write it is theirs to set.
            if let Err(e) = file.set_permissions(Permissions::from_mode(0o600))
                && e.raw_os_error() != Some(libc::EPERM)
            {
                return Err(e);
            }
        }
        let exe = std::env::current_exe().map(|p| p.display().to_string()).unwrap_or_default();
        let program = format!("{} {}: {exe}", source.ident, env!("CARGO_PKG_VERSION"));
        Ok(LogFile { file, format, program, header_bytes: 0, size_bytes: 0, max_bytes, regular })
    }

    /// The first line.
    fn header(&self, more: &str, source: &Source) -> String {
        let title = format!("{} ({})", self.program, std::process::id());
        let text = format!("{}{more}", prefix(&title, TITLE_MAX));
        match self.format {
            LogFormat::Text => text + "\n",
            LogFormat::Json => Message::of_the_log(Level::Info, Instant::ZERO, &text, &Map::new(), source).json(),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.regular {
            return self.file.write_all(bytes);
        }
        self.file.write_all_at(bytes, self.size_bytes)?;
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Copies the newer lines down over the older ones. What is read lies behind what is written at any time.
    fn rotate(&mut self, now: Instant, source: &Source) -> io::Result<()> {
        let header = self.header(&format!(" - log truncated at {}", elapsed(now)), source);
        let drop_bytes = (self.max_bytes * 3 / 10).next_multiple_of(4096);
        let mut from = self.line_start(self.header_bytes + drop_bytes)?;
        let mut to = header.len() as u64;
        let mut chunk = vec![0; 16384];
        while from < self.size_bytes {
            let want = (self.size_bytes - from).min(chunk.len() as u64) as usize;
            let got = self.file.read_at(&mut chunk[..want], from)?;
            if got == 0 {
                break;
            }
            self.file.write_all_at(&chunk[..got], to)?;
            from += got as u64;
            to += got as u64;
        }
        self.file.write_all_at(header.as_bytes(), 0)?;
        self.file.set_len(to)?;
        self.header_bytes = header.len() as u64;
        self.size_bytes = to;
        Ok(())
    }

    /// Where the first whole line at or after `at` begins; the end of the file if there is none.
    fn line_start(&self, at: u64) -> io::Result<u64> {
        let mut chunk = [0; super::LINE_MAX_BYTES * 2];
        let got = self.file.read_at(&mut chunk, at.saturating_sub(1))? as u64;
        let end = chunk[..got as usize].iter().position(|b| *b == b'\n');
        Ok(end.map_or(self.size_bytes, |e| at.saturating_sub(1) + e as u64 + 1).min(self.size_bytes))
    }

    fn put_line(&mut self, line: &str, now: Instant, source: &Source) -> io::Result<()> {
        self.begin(source)?;
        if self.regular {
            // Someone else may have truncated it: no hole then.
            self.size_bytes = self.size_bytes.min(self.file.metadata()?.len());
            let fits = |log: &LogFile| log.size_bytes + line.len() as u64 <= log.max_bytes;
            if !fits(self) {
                self.rotate(now, source)?;
            }
            if !fits(self) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        self.append(line.as_bytes())
    }
}

impl Sink for LogFile {
    fn put(&mut self, message: &Message<'_>) -> bool {
        let line = match self.format {
            LogFormat::Text => timed(message),
            LogFormat::Json => message.json(),
        };
        self.put_line(&line, message.at, message.source).is_ok()
    }

    fn begin(&mut self, source: &Source) -> io::Result<()> {
        if self.header_bytes == 0 {
            let header = self.header("", source);
            self.append(header.as_bytes())?;
            self.header_bytes = header.len() as u64;
        }
        Ok(())
    }

    fn last_resort(&self, _: &Source) -> Option<blocked::Log> {
        self.file.try_clone().ok().map(|file| blocked::Log::File(file.into()))
    }
}

/// Well below what one rotation drops, so that a longer first line never needs more room than there is.
const TITLE_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Clock;
    use std::time::Duration;

    const MAX: u64 = 40960;

    fn source() -> Source {
        Source { ident: "pasta".into(), control: None }
    }

    fn put(log: &mut LogFile, level: Level, at: Instant, text: &str) -> bool {
        log.put(&Message { level, at, text, target: "app", fields: &Map::new(), source: &source() })
    }

    fn at(secs: u64) -> Instant {
        Clock::BEGIN + Duration::from_secs(secs)
    }

    fn new() -> (tempfile::TempDir, std::path::PathBuf, LogFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = LogFile::open(&path, MAX, LogFormat::Text, &source()).unwrap();
        (dir, path, log)
    }

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_string).collect()
    }

    #[test]
    fn lines_have_time_and_level() {
        let (_dir, path, mut log) = new();
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
            assert!(put(&mut log, level, at(3), "text"));
        }
        let lines = lines(&path);
        let exe = std::env::current_exe().unwrap();
        assert_eq!(
            lines[0],
            format!("pasta {}: {} ({})", env!("CARGO_PKG_VERSION"), exe.display(), std::process::id())
        );
        assert_eq!(
            lines[1..],
            ["3.0000: ERROR:   text", "3.0000: WARNING: text", "3.0000: info:    text", "3.0000:          text"]
        );
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_oldest_part_goes_and_the_limit_holds() {
        let (_dir, path, mut log) = new();
        let mut largest = 0;
        for i in 0..2000u64 {
            assert!(put(&mut log, Level::Info, at(i), &format!("message {i} {}", "x".repeat((i % 90) as usize))));
            largest = largest.max(std::fs::metadata(&path).unwrap().len());
        }
        assert!((MAX - 200..=MAX).contains(&largest), "{largest}");
        let lines = lines(&path);
        assert!(lines[0].starts_with("pasta ") && lines[0].contains(") - log truncated at "), "{}", lines[0]);
        assert!(lines[0].matches("truncated").count() == 1);
        // The rest is whole, consecutive and the newest.
        let numbers: Vec<u64> = lines[1..].iter().map(|l| l.split(' ').nth(6).unwrap().parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1));
        assert_eq!(numbers.last(), Some(&1999));
        assert!(numbers.len() > 200, "{}", numbers.len());
    }

    #[test]
    fn every_line_is_an_object_after_rotation_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(&path, MAX, LogFormat::Json, &source()).unwrap();
        for i in 0..1000 {
            assert!(put(&mut log, Level::Info, at(i), &"\"".repeat(2048 * (i as usize % 2))));
            assert!(std::fs::metadata(&path).unwrap().len() <= MAX);
        }
        let objects: Vec<serde_json::Value> = lines(&path).iter().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(objects[0]["message"].as_str().unwrap().contains("log truncated at "), "{}", objects[0]);
        assert!(objects.len() > 10);
    }

    #[test]
    fn the_longest_lines_fit() {
        let (_dir, path, mut log) = new();
        for i in 0..100 {
            assert!(put(&mut log, Level::Error, at(i), &"y".repeat(super::super::LINE_MAX_BYTES)));
            assert!(std::fs::metadata(&path).unwrap().len() <= MAX);
        }
        assert!(lines(&path)[1..].iter().all(|l| l.ends_with('y') && l.contains("ERROR:   y")));
    }

    #[test]
    fn it_works_without_its_name() {
        let (_dir, path, mut log) = new();
        let kept = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for i in 0..1000 {
            assert!(put(&mut log, Level::Info, at(i), &"z".repeat(100)));
        }
        assert!(kept.metadata().unwrap().len() <= MAX);
        assert!(!path.exists());
    }

    #[test]
    fn truncation_by_others_leaves_no_hole() {
        let (_dir, path, mut log) = new();
        assert!(put(&mut log, Level::Info, at(1), &"a".repeat(1000)));
        File::create(&path).unwrap();
        assert!(put(&mut log, Level::Info, at(2), "b"));
        assert_eq!(lines(&path), ["2.0000: info:    b"]);
    }

    #[test]
    fn an_old_file_is_emptied_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        LogFile::open(&path, MAX, LogFormat::Text, &source()).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("old"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn devices_are_written_to_without_rotation() {
        let mut log = LogFile::open(Path::new("/dev/null"), MAX, LogFormat::Text, &source()).unwrap();
        for i in 0..1000 {
            assert!(put(&mut log, Level::Info, at(i), &"z".repeat(100)));
        }
        assert!(LogFile::open(Path::new("/no/such/directory"), MAX, LogFormat::Text, &source()).is_err());
    }
}
