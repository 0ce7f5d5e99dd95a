//! What [`Stats`] says in the text format of OpenMetrics 1.0, with names and units as Prometheus has them.

use std::fmt::Write;

use super::protocol::{Info, Stats};

/// The exposition, with its end.
pub fn text(info: &Info, stats: &Stats) -> String {
    let mut out = build(info);
    gauge(&mut out, "workers", None, "Worker threads.", info.workers as f64);
    directions(
        &mut out,
        ("frames", None, "Frames that crossed the guest's link; a super-frame counts once."),
        (stats.frames_from_guest, stats.frames_to_guest),
    );
    directions(
        &mut out,
        ("bytes", Some("bytes"), "Bytes of those frames, headers included."),
        (stats.bytes_from_guest, stats.bytes_to_guest),
    );
    head(&mut out, "flows", "gauge", None, "Flows there are now.");
    let flows = &stats.flows;
    let kinds = [
        ("tcp", flows.tcp),
        ("udp", flows.udp),
        ("icmp", flows.icmp),
        ("tcp-splice", flows.tcp_splice),
        ("udp-splice", flows.udp_splice),
    ];
    for (kind, count) in kinds {
        let _ = writeln!(out, "spelt_flows{{protocol=\"{kind}\"}} {count}");
    }
    head(&mut out, "dropped_frames", "counter", None, "Frames that were not forwarded, by reason.");
    for drops in &stats.drops {
        let _ = writeln!(out, "spelt_dropped_frames_total{{reason=\"{}\"}} {}", drops.reason, drops.count);
    }
    let captures = &stats.captures;
    gauge(&mut out, "captures", None, "Captures there are now.", captures.running as f64);
    counter(&mut out, "captured_frames", "Frames that captures have recorded.", captures.frames);
    counter(&mut out, "capture_lost_frames", "Frames that a capture could not record.", captures.lost);
    out.push_str("# EOF\n");
    out
}

/// The beginning: what is running, and for how long.
pub fn build(info: &Info) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "# TYPE spelt_build info\n# HELP spelt_build What is running.");
    let (program, version) = (escaped(&info.program), escaped(&info.version));
    let _ = writeln!(out, "spelt_build_info{{program=\"{program}\",version=\"{version}\",mode=\"{}\"}} 1", info.mode);
    gauge(&mut out, "uptime_seconds", Some("seconds"), "Time since the start.", info.uptime_seconds);
    out
}

/// What comes before the values of one name.
pub fn head(out: &mut String, name: &str, kind: &str, unit: Option<&str>, help: &str) {
    let _ = writeln!(out, "# TYPE spelt_{name} {kind}");
    if let Some(unit) = unit {
        let _ = writeln!(out, "# UNIT spelt_{name} {unit}");
    }
    let _ = writeln!(out, "# HELP spelt_{name} {help}");
}

/// One value.
pub fn gauge(out: &mut String, name: &str, unit: Option<&str>, help: &str, value: f64) {
    head(out, name, "gauge", unit, help);
    let _ = writeln!(out, "spelt_{name} {value}");
}

fn counter(out: &mut String, name: &str, help: &str, value: u64) {
    head(out, name, "counter", None, help);
    let _ = writeln!(out, "spelt_{name}_total {value}");
}

/// Two counters: `name` with a direction each.
fn directions(out: &mut String, (name, unit, help): (&str, Option<&str>, &str), (from, to): (u64, u64)) {
    let name = format!("guest_{name}");
    head(out, &name, "counter", unit, help);
    for (direction, count) in [("from_guest", from), ("to_guest", to)] {
        let _ = writeln!(out, "spelt_{name}_total{{direction=\"{direction}\"}} {count}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Counters, DropReason};
    use crate::control::protocol::{CaptureCounts, FlowCounts};

    #[test]
    fn exposition() {
        let mut counters = Counters::default();
        (counters.frames_from_guest, counters.bytes_to_guest) = (3, 400);
        counters.drop(DropReason::Arp);
        let info = Info {
            protocol: 1,
            program: "spelt".into(),
            version: "0.1".into(),
            pid: 7,
            mode: "run".into(),
            target: String::new(),
            uptime_seconds: 1.5,
            workers: 2,
        };
        let captures = CaptureCounts { running: 1, frames: 20, lost: 2 };
        let text = text(&info, &Stats::new(&counters, FlowCounts { tcp: 4, ..FlowCounts::default() }, captures));
        for line in [
            "spelt_build_info{program=\"spelt\",version=\"0.1\",mode=\"run\"} 1",
            "# UNIT spelt_uptime_seconds seconds",
            "spelt_uptime_seconds 1.5",
            "spelt_guest_frames_total{direction=\"from_guest\"} 3",
            "# UNIT spelt_guest_bytes bytes",
            "spelt_guest_bytes_total{direction=\"to_guest\"} 400",
            "spelt_flows{protocol=\"tcp\"} 4",
            "spelt_dropped_frames_total{reason=\"arp\"} 1",
            "spelt_captures 1",
            "spelt_captured_frames_total 20",
            "spelt_capture_lost_frames_total 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }
}
