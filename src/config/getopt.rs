//! Argument parsing by the rules of getopt_long(3), of any table of options. Existing callers rely on its abbreviations,
//! bundles and exact messages.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::described::Described;

/// An option of a table.
pub(super) trait Known: std::fmt::Debug {
    /// Without the dashes.
    fn long(&self) -> &'static str;
    fn short(&self) -> Option<char>;
    fn takes_value(&self) -> bool;
}

/// An option of a program whose table says no more of each.
#[derive(Debug)]
pub(super) struct Def<O> {
    pub opt: O,
    pub long: &'static str,
    pub short: Option<char>,
    /// What its value is called in the help text, if it takes one.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

impl<O: std::fmt::Debug> Known for Def<O> {
    fn long(&self) -> &'static str {
        self.long
    }

    fn short(&self) -> Option<char> {
        self.short
    }

    fn takes_value(&self) -> bool {
        self.value.is_some()
    }
}

impl<O> Def<O> {
    pub fn described(&self) -> Described {
        Described { group: "", short: self.short, long: self.long, value: self.value, help: self.help }
    }
}

pub(super) const fn def<O>(
    opt: O,
    short: Option<char>,
    long: &'static str,
    value: Option<&'static str>,
    help: &'static str,
) -> Def<O> {
    Def { opt, long, short, value, help }
}

/// Where options end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// At the first argument that is none (`+` in getopt's terms): what follows is a command and its options.
    OptionsFirst,
    /// Nowhere but at `--`.
    Mixed,
}

/// One step through the arguments.
#[derive(Debug)]
pub(super) enum Item<D: 'static> {
    Option {
        def: &'static D,
        /// As the user wrote it, or would have without abbreviating: `-m`, `--mtu`.
        name: String,
        /// Empty for flags.
        value: OsString,
    },
    /// What follows the options; the last item.
    Operands(Vec<OsString>),
}

/// Yields options as they come, so that what precedes a faulty one has its effect (`--version`).
pub(super) struct Getopt<'a, D: 'static> {
    argv0: &'a OsStr,
    /// In the order in which ambiguous abbreviations list them.
    known: Vec<&'static D>,
    order: Order,
    /// Arguments that are no options, so far.
    operands: Vec<OsString>,
    args: std::vec::IntoIter<OsString>,
    /// Rest of a bundle of short options.
    bundle: Vec<u8>,
    done: bool,
}

impl<'a, D: Known> Getopt<'a, D> {
    pub fn new(
        argv0: &'a OsStr,
        args: Vec<OsString>,
        known: impl Iterator<Item = &'static D>,
        order: Order,
    ) -> Getopt<'a, D> {
        let known = known.collect();
        Getopt { argv0, known, order, operands: Vec::new(), args: args.into_iter(), bundle: Vec::new(), done: false }
    }

    fn step(&mut self) -> Result<Item<D>, String> {
        if !self.bundle.is_empty() {
            return self.short();
        }
        loop {
            let Some(arg) = self.args.next() else { return Ok(self.operands()) };
            match arg.as_bytes() {
                b"--" => return Ok(self.operands()),
                [b'-', b'-', long @ ..] => return self.long(long),
                [b'-', bundle @ ..] if !bundle.is_empty() => {
                    self.bundle = bundle.to_vec();
                    return self.short();
                }
                _ => self.operands.push(arg),
            }
            if self.order == Order::OptionsFirst {
                return Ok(self.operands());
            }
        }
    }

    /// The last item: what is left are operands, whatever they look like.
    fn operands(&mut self) -> Item<D> {
        self.done = true;
        self.operands.extend(self.args.by_ref());
        Item::Operands(std::mem::take(&mut self.operands))
    }

    fn long(&mut self, text: &[u8]) -> Result<Item<D>, String> {
        let end = text.iter().position(|b| *b == b'=');
        let name = &text[..end.unwrap_or(text.len())];
        let attached = end.map(|e| OsString::from_vec(text[e + 1..].to_vec()));
        let def = self.find_long(name, text)?;
        let long = def.long();
        let value = match (def.takes_value(), attached) {
            (false, None) => OsString::new(),
            (false, Some(_)) => return Err(self.complain(&format!("option '--{long}' doesn't allow an argument"))),
            (true, Some(value)) => value,
            (true, None) => {
                let next = self.args.next();
                next.ok_or_else(|| self.complain(&format!("option '--{long}' requires an argument")))?
            }
        };
        Ok(Item::Option { def, name: format!("--{long}"), value })
    }

    fn find_long(&self, name: &[u8], text: &[u8]) -> Result<&'static D, String> {
        let candidates: Vec<_> = self.known.iter().copied().filter(|d| d.long().as_bytes().starts_with(name)).collect();
        if let Some(def) = candidates.iter().find(|d| d.long().len() == name.len()) {
            return Ok(def);
        }
        let shown = String::from_utf8_lossy(text);
        match candidates[..] {
            [] => Err(self.complain(&format!("unrecognized option '--{shown}'"))),
            [def] => Ok(def),
            _ => {
                let names: String = candidates.iter().map(|d| format!(" '--{}'", d.long())).collect();
                Err(self.complain(&format!("option '--{shown}' is ambiguous; possibilities:{names}")))
            }
        }
    }

    /// Takes one option off the front of the bundle.
    fn short(&mut self) -> Result<Item<D>, String> {
        let letter = self.bundle.remove(0);
        let Some(def) = self.known.iter().copied().find(|d| d.short() == Some(char::from(letter))) else {
            let shown = String::from_utf8_lossy(&[letter]).into_owned();
            return Err(self.complain(&format!("invalid option -- '{shown}'")));
        };
        let letter = char::from(letter);
        let value = match def.takes_value() {
            false => OsString::new(),
            true if !self.bundle.is_empty() => OsString::from_vec(std::mem::take(&mut self.bundle)),
            true => {
                let next = self.args.next();
                next.ok_or_else(|| self.complain(&format!("option requires an argument -- '{letter}'")))?
            }
        };
        Ok(Item::Option { def, name: format!("-{letter}"), value })
    }

    fn complain(&self, what: &str) -> String {
        format!("{}: {what}", self.argv0.to_string_lossy())
    }
}

impl<D: Known> Iterator for Getopt<'_, D> {
    type Item = Result<Item<D>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.step();
        self.done |= item.is_err();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::{Faces, OPTIONS};
    use super::*;

    /// Each option as `name=value` or `name`, operands after `|`; or the complaint.
    fn parse(line: &[&str]) -> Result<String, String> {
        parse_in(Order::OptionsFirst, line)
    }

    fn parse_in(order: Order, line: &[&str]) -> Result<String, String> {
        let args = line.iter().map(OsString::from).collect();
        let mut out = Vec::new();
        let known = OPTIONS.iter().filter(|d| d.faces.intersects(Faces::PEERS));
        for item in Getopt::new(OsStr::new("/x/pasta"), args, known, order) {
            match item? {
                Item::Option { def, name, value } if def.value.is_some() => {
                    out.push(format!("{name}={}", value.to_string_lossy()));
                }
                Item::Option { name, .. } => out.push(name),
                Item::Operands(v) => {
                    out.push("|".into());
                    out.extend(v.iter().map(|o| o.to_string_lossy().into_owned()));
                }
            }
        }
        Ok(out.join(" "))
    }

    #[test]
    fn accepted() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "|"),
            (&["-q", "--mtu", "1500", "ls", "-l"], "-q --mtu=1500 | ls -l"),
            (&["--mtu=1500", "--mtu="], "--mtu=1500 --mtu= |"),
            (&["-qf"], "-q -f |"),
            (&["-qfm1500"], "-q -f -m=1500 |"),
            (&["-m", "1500", "-m1400"], "-m=1500 -m=1400 |"),
            (&["-qm", "1500"], "-q -m=1500 |"),
            (&["-m=1500"], "-m==1500 |"),
            (&["-m", "-q"], "-m=-q |"),
            (&["-q", "--", "-f"], "-q | -f"),
            (&["--"], "|"),
            (&["-", "-q"], "| - -q"),
            (&["", "-q"], "|  -q"),
            (&["--pid", "x"], "--pid=x |"),
            (&["--netns", "x"], "--netns=x |"),
            (&["--socket=x", "-4", "-6"], "--socket=x -4 -6 |"),
            (&["--no-ra", "--no-dhcp"], "--no-ra --no-dhcp |"),
            (&["--address=::1", "--mac=00:11:22:33:44:55"], "--address=::1 --mac-addr=00:11:22:33:44:55 |"),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line).as_deref(), Ok(*expected), "{line:?}");
        }
    }

    #[test]
    fn refused() {
        let cases: &[(&[&str], &str)] = &[
            (&["--x"], "unrecognized option '--x'"),
            (&["--x=1", "--help"], "unrecognized option '--x=1'"),
            (&["--mtu-size", "3"], "unrecognized option '--mtu-size'"),
            (
                &["--m"],
                "option '--m' is ambiguous; possibilities: '--mtu' '--mac-addr' '--map-host-loopback' \
                        '--map-guest-addr' '--migrate-exit' '--migrate-no-linger'",
            ),
            (
                &["--outbound-if=x"],
                "option '--outbound-if=x' is ambiguous; possibilities: '--outbound-if4' '--outbound-if6'",
            ),
            (&["--no-config-net"], "unrecognized option '--no-config-net'"),
            (&["--quiet=3"], "option '--quiet' doesn't allow an argument"),
            (&["--qui=3"], "option '--quiet' doesn't allow an argument"),
            (&["--mtu"], "option '--mtu' requires an argument"),
            (&["-q", "-m"], "option requires an argument -- 'm'"),
            (&["-Z"], "invalid option -- 'Z'"),
            (&["-qZ"], "invalid option -- 'Z'"),
            (&["-?"], "invalid option -- '?'"),
            (&["-V"], "invalid option -- 'V'"),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), Err(format!("/x/pasta: {expected}")), "{line:?}");
        }
    }

    #[test]
    fn operands_may_stand_between_options() {
        for (line, expected) in [
            ("1 -q tap0 --mtu 1500", "-q --mtu=1500 | 1 tap0"),
            ("1 -- -q", "| 1 -q"),
            ("-q - 1 -f", "-q -f | - 1"),
            ("1 2 3", "| 1 2 3"),
        ] {
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!(parse_in(Order::Mixed, &words).as_deref(), Ok(expected), "{line}");
        }
        assert!(parse_in(Order::Mixed, &["1", "-Z"]).is_err());
    }

    #[test]
    fn bytes_that_are_not_text_are_kept_in_values() {
        let args = vec![OsString::from_vec(b"--pid=/\xff".to_vec()), OsString::from_vec(b"\xfe".to_vec())];
        let found = Getopt::new(OsStr::new("pasta"), args, OPTIONS.iter(), Order::OptionsFirst);
        let items: Vec<_> = found.map(Result::unwrap).collect();
        assert!(matches!(&items[0], Item::Option { value, .. } if value.as_bytes() == b"/\xff"));
        assert!(matches!(&items[1], Item::Operands(v) if v[0].as_bytes() == b"\xfe"));
    }
}
