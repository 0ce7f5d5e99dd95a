//! `--stats`: what has passed and what has not, one line at a time.

use std::fmt::Write;

use crate::base::Counters;

/// What happened between two readings of the counters; `None` if nothing did.
///
/// `stats: 12 frames (3456 bytes) from the guest, 9 (1234 bytes) to it; dropped 3: arp 2, no_flow 1`
pub fn stats_line(before: &Counters, now: &Counters) -> Option<String> {
    let new = now.since(before);
    let dropped: u64 = new.drops().map(|(_, count)| count).sum();
    if new.frames_from_guest + new.frames_to_guest + dropped == 0 {
        return None;
    }
    let mut line = format!(
        "stats: {} frames ({} bytes) from the guest, {} ({} bytes) to it",
        new.frames_from_guest, new.bytes_from_guest, new.frames_to_guest, new.bytes_to_guest
    );
    for (i, (reason, count)) in new.drops().enumerate() {
        let lead = if i == 0 { format!("; dropped {dropped}:") } else { ",".into() };
        let _ = write!(line, "{lead} {} {count}", reason.name());
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DropReason;

    #[test]
    fn a_line_tells_what_is_new() {
        let mut before = Counters::default();
        before.frames_from_guest = 5;
        before.bytes_from_guest = 500;
        before.drop(DropReason::Arp);
        let mut now = before.clone();
        assert_eq!(stats_line(&before, &now), None);
        now.frames_from_guest += 12;
        now.bytes_from_guest += 3456;
        now.frames_to_guest = 9;
        now.bytes_to_guest = 1234;
        let line = "stats: 12 frames (3456 bytes) from the guest, 9 (1234 bytes) to it";
        assert_eq!(stats_line(&before, &now).as_deref(), Some(line));
        for reason in [DropReason::NoFlow, DropReason::Arp, DropReason::Arp] {
            now.drop(reason);
        }
        let with_drops = format!("{line}; dropped 3: arp 2, no_flow 1");
        assert_eq!(stats_line(&before, &now), Some(with_drops));
    }

    #[test]
    fn what_is_only_dropped_counts() {
        let mut now = Counters::default();
        now.drop(DropReason::LinkFull);
        let line = "stats: 0 frames (0 bytes) from the guest, 0 (0 bytes) to it; dropped 1: link_full 1";
        assert_eq!(stats_line(&Counters::default(), &now).as_deref(), Some(line));
    }
}
