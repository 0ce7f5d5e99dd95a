//! One message as one line.

use std::borrow::Cow;

use log::Level;

use super::LINE_MAX_BYTES;
use super::message::Message;
use crate::base::{Clock, Instant};

/// Cut to the limit, and without control characters: a guest's host name must not write lines or colours of its own.
pub(super) fn tidy(text: &str) -> Cow<'_, str> {
    let mut text = plain(text);
    if text.len() > LINE_MAX_BYTES {
        text = prefix(&text, LINE_MAX_BYTES).to_string().into();
    }
    let cut = text.trim_end_matches('\n');
    if cut.contains(char::is_control) {
        cut.replace(char::is_control, "?").into()
    } else if cut.len() < text.len() {
        cut.to_string().into()
    } else {
        text
    }
}

/// Without the numbers that Rust puts behind the texts of system errors: they say the same once more, to fewer readers.
pub fn plain(text: &str) -> Cow<'_, str> {
    const BEGIN: &str = " (os error ";
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let behind = &rest[at + BEGIN.len()..];
        let digits = behind.bytes().take_while(u8::is_ascii_digit).count();
        match behind[digits..].strip_prefix(')') {
            Some(after) if digits > 0 => {
                out.push_str(&rest[..at]);
                rest = after;
            }
            _ => {
                out.push_str(&rest[..at + BEGIN.len()]);
                rest = behind;
            }
        }
    }
    if rest.len() == text.len() {
        return text.into();
    }
    out.push_str(rest);
    out.into()
}

/// The longest prefix of at most `max_bytes` that ends with a whole character.
pub(super) fn prefix(text: &str, max_bytes: usize) -> &str {
    let mut end = max_bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A line with time and level, as log files have it.
pub(super) fn timed(message: &Message<'_>) -> String {
    let label = match message.level {
        Level::Error => "ERROR:   ",
        Level::Warn => "WARNING: ",
        Level::Info => "info:    ",
        Level::Debug | Level::Trace => "         ",
    };
    format!("{}: {label}{}\n", elapsed(message.at), message.text)
}

/// Seconds since start with four decimals.
pub(super) fn elapsed(now: Instant) -> String {
    let nanos = now.since(Clock::BEGIN).as_nanos();
    format!("{}.{:04}", nanos / 1_000_000_000, nanos % 1_000_000_000 / 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_are_tidy() {
        assert!(matches!(tidy("plain é"), Cow::Borrowed("plain é")));
        assert_eq!(tidy("a\nb\x1b[31mc\n"), "a?b?[31mc");
        assert_eq!(tidy(&"x".repeat(5000)).len(), LINE_MAX_BYTES);
        assert_eq!(tidy(&"é".repeat(5000)).len(), LINE_MAX_BYTES);
        assert_eq!(tidy(&format!("x{}", "é".repeat(5000))).len(), LINE_MAX_BYTES - 1);
    }

    #[test]
    fn error_numbers_are_left_out() {
        assert!(matches!(plain("nothing to do"), Cow::Borrowed(_)));
        assert_eq!(plain("cannot: No such file (os error 2): advice (os error 13)"), "cannot: No such file: advice");
        assert_eq!(plain("a (os error ) b (os error x) (os error 1"), "a (os error ) b (os error x) (os error 1");
        assert_eq!(tidy("broken (os error 5)\n"), "broken");
    }

    #[test]
    fn time_since_start() {
        assert_eq!(elapsed(Clock::BEGIN), "0.0000");
        assert_eq!(elapsed(Clock::BEGIN + Duration::from_micros(12_012_345)), "12.0123");
        assert_eq!(elapsed(Instant::ZERO), "0.0000");
    }
}
