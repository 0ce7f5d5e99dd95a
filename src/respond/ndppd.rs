//! Configuration files of ndppd, as its manual describes them. Pure.
//!
//! A file is words, blocks in braces, and comments (`#`, `//`, `/* */`); words may be quoted. Every directive of ndppd's is
//! either honoured or refused by its name and line: what is passed over in silence would be believed to work. Where ndppd takes
//! anything, as for a value that is none, this does not.
//!
//! What differs: of rules that overlap, that with the longest prefix counts.

use std::time::Duration;

use super::args::prefix;
use super::core::Uplink;
use super::rules::{Method, Patience, Rules};
use crate::base::Prefix;

/// Longest file that is read.
pub const BYTES_MAX: usize = 1 << 20;

/// What a file says: links that are answered on, and names of links behind.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    pub uplinks: Vec<Uplink>,
    pub behind: Vec<String>,
}

/// Reads a file.
///
/// # Errors
/// A sentence, with the line.
pub fn parse(text: &str) -> Result<Proxies, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("it has more than {BYTES_MAX} bytes"));
    }
    let mut reader = Reader { words: words(text)?, at: 0 };
    let mut found = Proxies::default();
    while let Some(word) = reader.next() {
        match word.text.as_str() {
            "proxy" => {
                let uplink = proxy(&mut reader, &mut found.behind)?;
                if found.uplinks.iter().any(|u| u.name == uplink.name) {
                    return Err(word.wrong(&format!("a second 'proxy {}': put its rules into the first", uplink.name)));
                }
                found.uplinks.push(uplink);
            }
            // Nothing of the kernel's is remembered: it is asked each time, or tells of changes.
            "route-ttl" | "address-ttl" => drop(milliseconds(&mut reader, &word)?),
            _ => return Err(word.wrong(&format!("'{}' is no directive of ndppd's out here", word.text))),
        }
    }
    if found.uplinks.is_empty() {
        return Err("it has no 'proxy'".into());
    }
    Ok(found)
}

/// From the interface's name to the closing brace.
fn proxy(reader: &mut Reader, behind: &mut Vec<String>) -> Result<Uplink, String> {
    let name = reader.value("proxy")?;
    reader.open(&name)?;
    let mut rules = Rules::default();
    let mut patience = Patience::default();
    let (mut router, mut absent) = (true, None);
    loop {
        let word = reader.inside(&name)?;
        match word.text.as_str() {
            "}" => break,
            "rule" => {
                let (prefix, method) = rule(reader, behind)?;
                rules.serve(prefix, method);
            }
            "router" => router = yes(reader, &word)?,
            "timeout" => patience.timeout = milliseconds(reader, &word)?,
            "ttl" => patience.ttl = milliseconds(reader, &word)?,
            "deadtime" => absent = Some(milliseconds(reader, &word)?),
            "keepalive" => patience.keep_alive = yes(reader, &word)?,
            "retries" => {
                let value = reader.value(&word.text)?;
                let number = value.text.parse().ok().filter(|n| (1..=100).contains(n));
                patience.tries = number.ok_or_else(|| value.wrong("'retries' takes a number from 1 to 100"))?;
            }
            "autowire" => {
                refuse(reader, &word, "no routes are made here; `ip route` or the container engine makes them")?
            }
            "promiscuous" => refuse(reader, &word, "solicitations come to groups, which are all heard")?,
            _ => return Err(word.wrong(&format!("'{}' is no directive of ndppd's in a 'proxy'", word.text))),
        }
    }
    // One time for both is what ndppd has, if nothing else is said.
    patience.absent = absent.unwrap_or(patience.ttl);
    if rules.prefixes().next().is_none() {
        return Err(name.wrong("this 'proxy' has no 'rule'"));
    }
    Ok(Uplink { name: name.text, rules, patience, router })
}

/// From the prefix to the closing brace.
fn rule(reader: &mut Reader, behind: &mut Vec<String>) -> Result<(Prefix, Method), String> {
    let of = reader.value("rule")?;
    reader.open(&of)?;
    let mut found = None;
    loop {
        let word = reader.inside(&of)?;
        let method = match word.text.as_str() {
            "}" => break,
            "static" => Method::Static,
            "auto" => Method::Auto,
            "iface" => Method::Via(number(behind, reader.value("iface")?.text)),
            "autovia" => {
                refuse(reader, &word, "no routes are made here; `ip route` or the container engine makes them")?;
                continue;
            }
            _ => return Err(word.wrong(&format!("'{}' is no directive of ndppd's in a 'rule'", word.text))),
        };
        if found.replace(method).is_some() {
            return Err(word.wrong("only one of 'static', 'auto' and 'iface' makes sense in a 'rule'"));
        }
    }
    let method = found.ok_or_else(|| of.wrong("one of 'static', 'auto' and 'iface' is missing in this 'rule'"))?;
    // ndppd takes an address with a length for its network.
    let network = match of.text.split_once('/') {
        Some((addr, len)) => prefix(addr).ok().zip(len.parse().ok()).filter(|(_, len)| *len <= 128),
        None => prefix(&of.text).ok().map(|p| (p, p.len)),
    };
    let network = network.map(|(p, len)| Prefix::new(p.addr, len).network()).filter(|p| !p.addr.is_v4());
    Ok((network.ok_or_else(|| of.wrong(&format!("'{}' is no IPv6 prefix", of.text)))?, method))
}

/// Of a link behind; its place among them.
fn number(behind: &mut Vec<String>, name: String) -> usize {
    behind.iter().position(|b| *b == name).unwrap_or_else(|| {
        behind.push(name);
        behind.len() - 1
    })
}

/// `no` is what is done anyway.
fn refuse(reader: &mut Reader, word: &Word, why: &str) -> Result<(), String> {
    match yes(reader, word)? {
        true => Err(word.wrong(&format!("'{} yes' is not supported: {why}", word.text))),
        false => Ok(()),
    }
}

fn yes(reader: &mut Reader, word: &Word) -> Result<bool, String> {
    let value = reader.value(&word.text)?;
    match value.text.as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err(value.wrong(&format!("'{}' takes 'yes' or 'no'", word.text))),
    }
}

fn milliseconds(reader: &mut Reader, word: &Word) -> Result<Duration, String> {
    let value = reader.value(&word.text)?;
    let number = value.text.parse().ok().filter(|ms| (1..=86_400_000).contains(ms));
    let advice = || value.wrong(&format!("'{}' takes milliseconds, from 1 to 86400000", word.text));
    number.map(Duration::from_millis).ok_or_else(advice)
}

#[derive(Clone, Debug)]
struct Word {
    text: String,
    line: usize,
    quoted: bool,
}

impl Word {
    fn wrong(&self, what: &str) -> String {
        format!("line {}: {what}", self.line)
    }

    fn is_brace(&self) -> bool {
        !self.quoted && matches!(self.text.as_str(), "{" | "}")
    }
}

struct Reader {
    words: Vec<Word>,
    at: usize,
}

impl Reader {
    fn next(&mut self) -> Option<Word> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word
    }

    /// What has to follow `directive`.
    fn value(&mut self, directive: &str) -> Result<Word, String> {
        let value = self.next().filter(|w| !w.is_brace() && !w.text.is_empty());
        value.ok_or_else(|| format!("line {}: '{directive}' lacks its value", self.line()))
    }

    fn open(&mut self, of: &Word) -> Result<(), String> {
        match self.next() {
            Some(word) if word.is_brace() && word.text == "{" => Ok(()),
            _ => Err(of.wrong(&format!("a '{{' is missing behind '{}'", of.text))),
        }
    }

    /// The next word of a block, its end included.
    fn inside(&mut self, of: &Word) -> Result<Word, String> {
        self.next().ok_or_else(|| of.wrong(&format!("the '}}' of '{}' is missing", of.text)))
    }

    /// Of the word that was read last.
    fn line(&self) -> usize {
        let last = self.at.min(self.words.len()).checked_sub(1);
        last.map_or(1, |at| self.words[at].line)
    }
}

fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches('\u{feff}');
    let line_at = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
        } else if first == '#' || rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            let end = comment.find("*/").ok_or_else(|| format!("line {}: a comment has no end", line_at(rest)))?;
            rest = &comment[end + 2..];
        } else if let Some(quoted) = rest.strip_prefix(['"', '\'']) {
            let line = line_at(rest);
            let end = quoted.find(first).ok_or_else(|| format!("line {line}: a quotation has no end"))?;
            found.push(Word { text: quoted[..end].into(), line, quoted: true });
            rest = &quoted[end + 1..];
        } else {
            let ends = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | '#' | '"' | '\'');
            let len = if matches!(first, '{' | '}') { 1 } else { rest.find(ends).unwrap_or(rest.len()) };
            found.push(Word { text: rest[..len].into(), line: line_at(rest), quoted: false });
            rest = &rest[len..];
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::rules::Ruling;
    use super::super::testing::a;
    use super::*;

    #[test]
    fn what_can_be_honoured_is() {
        let text = "route-ttl 30000\n# a comment\nproxy eth0 { // another\n  router no\n timeout 250 ttl 60000\n\
                    retries 5 keepalive yes deadtime 1000 autowire no promiscuous no\n\
                    rule 2001:db8::/64 { iface \"br0\" }\n rule 2001:db8:1::1/64 {\n auto\n } /* x\n */\n\
                    rule 2001:db8:2::1 { static } }\n\
                    address-ttl 1\nproxy eth1 { ttl 5000 rule 2001:db8:3::/64 { iface br0 autovia no } }\n";
        let found = parse(text).unwrap();
        assert_eq!(found.behind, ["br0"]);
        let [first, second] = &found.uplinks[..] else { panic!() };
        let patience = Patience {
            timeout: Duration::from_millis(250),
            tries: 5,
            ttl: Duration::from_secs(60),
            absent: Duration::from_secs(1),
            keep_alive: true,
        };
        assert_eq!((first.name.as_str(), first.router, first.patience), ("eth0", false, patience));
        for (target, method) in
            [("2001:db8::9", Method::Via(0)), ("2001:db8:1::9", Method::Auto), ("2001:db8:2::1", Method::Static)]
        {
            assert_eq!(first.rules.ruling(&a(target)), Ruling::By(method));
        }
        assert_eq!((second.name.as_str(), second.router), ("eth1", true));
        assert_eq!(second.patience.absent, Duration::from_secs(5));
    }

    #[test]
    fn what_cannot_is_refused_by_name_and_line() {
        let rule = "rule 2001:db8::/64 { static }";
        for (text, sentence) in [
            ("", "it has no 'proxy'"),
            ("\nlisten eth0", "line 2: 'listen' is no directive of ndppd's out here"),
            ("route-ttl never", "line 1: 'route-ttl' takes milliseconds"),
            ("proxy", "line 1: 'proxy' lacks its value"),
            ("proxy eth0 rule", "line 1: a '{' is missing behind 'eth0'"),
            ("proxy eth0 {", "line 1: the '}' of 'eth0' is missing"),
            ("proxy eth0 { }", "line 1: this 'proxy' has no 'rule'"),
            ("proxy eth0 {\nautowire yes RULE }", "line 2: 'autowire yes' is not supported"),
            ("proxy eth0 { promiscuous true RULE }", "'promiscuous yes' is not supported"),
            ("proxy eth0 { router maybe RULE }", "'router' takes 'yes' or 'no'"),
            ("proxy eth0 { retries 0 RULE }", "'retries' takes a number"),
            ("proxy eth0 { nonsense 5 RULE }", "'nonsense' is no directive of ndppd's in a 'proxy'"),
            ("proxy eth0 { rule 2001:db8::/64 { static\nauto } }", "line 2: only one of"),
            ("proxy eth0 { rule 2001:db8::/64 { } }", "one of 'static', 'auto' and 'iface' is missing"),
            ("proxy eth0 { rule 2001:db8::/64 { iface } }", "'iface' lacks its value"),
            ("proxy eth0 { rule 2001:db8::/64 { iface br0 autovia yes } }", "'autovia yes' is not supported"),
            ("proxy eth0 { rule 2001:db8::/64 { static; } }", "'static;' is no directive"),
            ("proxy eth0 { rule 192.0.2.0/24 { static } }", "'192.0.2.0/24' is no IPv6 prefix"),
            ("proxy eth0 { rule 2001:db8::/129 { static } }", "is no IPv6 prefix"),
            ("proxy eth0 { RULE } proxy eth0 { RULE }", "a second 'proxy eth0'"),
            ("proxy eth0 { /* }", "a comment has no end"),
            ("proxy \"eth0", "a quotation has no end"),
        ] {
            let error = parse(&text.replace("RULE", rule)).unwrap_err();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([{}#/*\"'\n a1:]|proxy |rule |static |ttl |eth0 ){0,40}") {
            match parse(&text) {
                Ok(found) => assert!(!found.uplinks.is_empty()),
                Err(why) => assert!(!why.is_empty()),
            }
        }
    }
}
