//! A message with what is known about it, and its form for programs.

use std::borrow::Cow;

use log::Level;
use log::kv::{self, VisitSource};
use serde::Serialize;
use serde_json::{Map, Value};

use super::line::prefix;
use crate::base::{Instant, Utc};

/// One message, tidy and on its way to all destinations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub level: Level,
    pub at: Instant,
    pub text: &'a str,
    /// The module that says it, without the name of the program.
    pub target: &'a str,
    pub fields: &'a Map<String, Value>,
    pub source: &'a Source,
}

/// Who says all this.
#[derive(Clone, Debug, Default)]
pub(super) struct Source {
    /// Name for the system log, and first word of the log file.
    pub ident: String,
    /// Path of the control socket, if one was named.
    pub control: Option<String>,
}

impl Source {
    /// As 'spelt ctl --instance' takes it.
    pub fn instance(&self) -> Cow<'_, str> {
        match &self.control {
            Some(path) => path.into(),
            None => std::process::id().to_string().into(),
        }
    }
}

#[derive(Serialize)]
struct Object<'a> {
    time: String,
    level: String,
    target: &'a str,
    message: &'a str,
    pid: u32,
    instance: &'a str,
    #[serde(flatten)]
    fields: &'a Map<String, Value>,
}

impl<'a> Message<'a> {
    /// One about the log itself.
    pub fn of_the_log(
        level: Level,
        at: Instant,
        text: &'a str,
        fields: &'a Map<String, Value>,
        source: &'a Source,
    ) -> Message<'a> {
        Message { level, at, text, target: "logging", fields, source }
    }

    /// One JSON object (RFC 8259) on one line, with its end. What makes it longer than [`JSON_MAX_BYTES`] is cut.
    pub fn json(&self) -> String {
        let none = Map::new();
        let whole = self.object(self.text, self.fields);
        if whole.len() <= JSON_MAX_BYTES {
            return whole;
        }
        let shorter = self.text.len().saturating_sub(whole.len() - JSON_MAX_BYTES);
        let cut = self.object(prefix(self.text, shorter), if shorter > 0 { self.fields } else { &none });
        if cut.len() <= JSON_MAX_BYTES { cut } else { self.object(prefix(self.text, JSON_MAX_BYTES / 4), &none) }
    }

    fn object(&self, message: &str, fields: &Map<String, Value>) -> String {
        let object = Object {
            time: Utc::now().to_string(),
            level: self.level.as_str().to_lowercase(),
            target: self.target,
            message,
            pid: std::process::id(),
            instance: &self.source.instance(),
            fields,
        };
        // Fails only for maps with keys that are no text.
        serde_json::to_string(&object).unwrap_or_default() + "\n"
    }
}

/// What a pipe that is ready for writing takes at once (pipe(7)).
pub(super) const JSON_MAX_BYTES: usize = 4096;

/// The fields of a record.
pub(super) fn fields(source: &dyn kv::Source) -> Map<String, Value> {
    struct Fields(Map<String, Value>);
    impl<'kvs> VisitSource<'kvs> for Fields {
        fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
            let value = value.to_u64().map_or_else(|| Value::from(value.to_string()), Value::from);
            self.0.insert(key.as_str().to_owned(), value);
            Ok(())
        }
    }
    let mut all = Fields(Map::new());
    // Ours never fails.
    let _ = source.visit(&mut all);
    all.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, fields: &Map<String, Value>) -> String {
        let source = Source { ident: "spelt".into(), control: Some("/run/c\"".into()) };
        Message { level: Level::Warn, at: Instant::ZERO, text, target: "app::ports", fields, source: &source }.json()
    }

    #[test]
    fn a_message_is_an_object_on_a_line() {
        let text =
            line("a \"quoted\" é", &fields(&[("port", kv::Value::from(80u16)), ("reason", kv::Value::from("arp"))]));
        assert!(text.ends_with("}\n") && text.matches('\n').count() == 1 && text.starts_with("{\"time\":\""), "{text}");
        let got: Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({ "time": got["time"], "level": "warn", "target": "app::ports",
            "message": "a \"quoted\" é", "pid": std::process::id(), "instance": "/run/c\"", "port": 80, "reason": "arp" });
        assert_eq!(got, expected);
    }

    #[test]
    fn what_is_long_is_cut_and_still_an_object() {
        for (text, field) in
            [("\"".repeat(2048), 0), ("é".repeat(1024), 5000), ("x".into(), 3000), ("\\".repeat(2048), 3000)]
        {
            let fields = fields(&[("origin", kv::Value::from(&*"y".repeat(field)))]);
            let text = line(&text, &fields);
            assert!(text.len() <= JSON_MAX_BYTES, "{}", text.len());
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["level"], "warn");
        }
    }
}
