//! The table of forwards.

use serde_json::Value;

use super::table::Table;
use crate::control::protocol::{ForwardOption, Forwards};
use crate::sys::terminal::harmless;

/// # Errors
/// The reply is of another version.
pub fn table(value: &Value) -> anyhow::Result<String> {
    let all: Forwards = serde_json::from_value(value.clone())?;
    let columns = ["ID", "FROM", "PROTO", "PORTS", "OPEN", "HITS", "TO GUEST", "FROM GUEST", "ASKED FOR BY"];
    let mut table = Table::new(&columns);
    table.right(&[0, 4, 5, 6, 7]);
    table.shorten(&[3]);
    let mut errors = String::new();
    for f in &all.forwards {
        let (from, proto) = match f.option {
            ForwardOption::TcpToGuest => ("host", "tcp"),
            ForwardOption::UdpToGuest => ("host", "udp"),
            ForwardOption::TcpToHost => ("guest", "tcp"),
            ForwardOption::UdpToHost => ("guest", "udp"),
        };
        let refused = if f.refused.is_empty() { String::new() } else { format!(" ({} not bound)", f.refused.len()) };
        table.row([
            f.id.to_string(),
            from.into(),
            proto.into(),
            shortened(&f.spec),
            format!("{}{refused}", f.open),
            f.hits.to_string(),
            super::table::bytes(f.bytes_to_guest),
            super::table::bytes(f.bytes_from_guest),
            f.origin.clone(),
        ]);
        for e in &f.bind_errors {
            let more = if e.ports.contains([',', '-']) { "ports" } else { "port" };
            let (ports, message) = (harmless(&e.ports), harmless(&e.message));
            errors.push_str(&format!("{} does not listen at {more} {ports}: {message}\n", f.id));
        }
    }
    Ok(table.render(super::table::width()) + &errors)
}

/// `8080-8080:80-80` is `8080:80`.
fn shortened(spec: &str) -> String {
    let range = |text: &str| match text.split_once('-') {
        Some((first, last)) if first == last => first.to_owned(),
        _ => text.to_owned(),
    };
    let part = |text: &str| match text.rsplit_once('/') {
        Some((address, ports)) => format!("{address}/{}", range(ports)),
        None => range(text),
    };
    // An address has colons as well, but those are in brackets.
    let Some(at) = spec.match_indices(':').map(|(at, _)| at).find(|at| !in_brackets(spec, *at)) else {
        return part(spec);
    };
    let (rest, auto) = spec[at + 1..].split_once(',').map_or((&spec[at + 1..], ""), |(rest, _)| (rest, ",auto"));
    format!("{}:{}{auto}", part(&spec[..at]), part(rest))
}

fn in_brackets(text: &str, at: usize) -> bool {
    let before = &text[..at];
    before.rfind('[') > before.rfind(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_one_are_a_number() {
        for (long, short) in [
            ("8080-8080:80-80", "8080:80"),
            ("1-9:1-9", "1-9:1-9"),
            ("127.0.0.1/80-80:81-81", "127.0.0.1/80:81"),
            ("[::1]%lo/80-80:[fd00::2]/81-82", "[::1]%lo/80:[fd00::2]/81-82"),
            ("1-65535:1-65535,auto", "1-65535:1-65535,auto"),
        ] {
            assert_eq!(shortened(long), short);
        }
    }

    #[test]
    fn an_instances_errors_are_lines_that_do_nothing_to_the_terminal() {
        let hostile = "x\x1b[2J\u{9b}H\n";
        let text = table(&serde_json::json!({ "forwards": [{
            "id": 1, "option": "-t", "spec": hostile, "origin": hostile, "open": 1, "hits": 0,
            "bytes_to_guest": 0, "bytes_from_guest": 0, "refused": [],
            "bind_errors": [{ "ports": hostile, "message": hostile }] }] }));
        let text = text.unwrap();
        assert_eq!(text.lines().last(), Some("1 does not listen at port x?[2J?H?: x?[2J?H?"));
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}
