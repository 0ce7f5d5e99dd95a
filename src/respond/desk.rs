//! What a running responder says of itself over its control socket.

use std::cell::Cell;
use std::fmt::Write;

use serde_json::{Value, json};

use super::core::Responder;
use super::reason::{Event, Reason};
use super::rules::Method;
use crate::control::metrics;
use crate::control::protocol::{self, Failure, Info};
use crate::control::service::Backend;

/// The responder, between two turns of its loop.
pub struct Desk<'a> {
    pub responder: &'a Responder,
    pub started: std::time::Instant,
    pub quit: Cell<bool>,
}

impl Backend for Desk<'_> {
    fn info(&self) -> Info {
        let names: Vec<&str> = self.responder.settings().uplinks.iter().map(|u| u.name.as_str()).collect();
        Info {
            protocol: protocol::VERSION,
            program: "spelt".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            mode: "respond".into(),
            target: names.join(" "),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            workers: 1,
        }
    }

    fn config(&self) -> Value {
        let settings = self.responder.settings();
        let method = |method| match method {
            Method::Static => "static".to_string(),
            Method::Auto => "auto".to_string(),
            Method::Via(number) => format!("via {}", settings.behind[number]),
            Method::Containers => "containers".to_string(),
        };
        let uplink = |u: &super::core::Uplink| {
            let served: Vec<Value> = u
                .rules
                .prefixes()
                .map(|(prefix, m)| json!({ "prefix": prefix.to_string(), "method": method(m) }))
                .collect();
            let excluded: Vec<String> = u.rules.exclusions().map(|p| p.to_string()).collect();
            json!({
                "interface": u.name, "served": served, "excluded": excluded, "router": u.router,
                "timeout_seconds": u.patience.timeout.as_secs_f64(), "retries": u.patience.tries,
                "ttl_seconds": u.patience.ttl.as_secs_f64(), "deadtime_seconds": u.patience.absent.as_secs_f64(),
                "keep_alive": u.patience.keep_alive,
            })
        };
        json!({
            "links": settings.uplinks.iter().map(uplink).collect::<Vec<_>>(),
            "rate_limit": settings.rate,
            "announce_interval_seconds": settings.to_router.map(|d| d.as_secs_f64()),
        })
    }

    fn stats(&self) -> Result<Value, Failure> {
        let counters = &self.responder.counters;
        let events = Event::ALL.iter().map(|e| (e.name().to_string(), counters.counted(*e).into()));
        let drops = Reason::ALL
            .iter()
            .map(|r| json!({ "reason": r.name(), "meaning": r.meaning(), "count": counters.dropped(*r) }));
        Ok(json!({
            "events": events.collect::<serde_json::Map<String, Value>>(),
            "targets": self.responder.sessions(),
            "containers": self.responder.containers(),
            "drops": drops.collect::<Vec<_>>(),
        }))
    }

    fn metrics(&self) -> Result<String, Failure> {
        let counters = &self.responder.counters;
        let mut out = metrics::build(&self.info());
        for event in Event::ALL {
            let name = format!("respond_{}", event.name());
            metrics::head(&mut out, &name, "counter", None, event.meaning());
            let _ = writeln!(out, "spelt_{name}_total {}", counters.counted(*event));
        }
        let help = "Targets that were asked for behind, and what is known of them.";
        metrics::gauge(&mut out, "respond_targets", None, help, self.responder.sessions() as f64);
        metrics::head(&mut out, "respond_dropped", "counter", None, "Questions without an answer, by reason.");
        for reason in Reason::ALL {
            let count = counters.dropped(*reason);
            let _ = writeln!(out, "spelt_respond_dropped_total{{reason=\"{}\"}} {count}", reason.name());
        }
        out.push_str("# EOF\n");
        Ok(out)
    }

    fn quit(&self) {
        self.quit.set(true);
    }
}
