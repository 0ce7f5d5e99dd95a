//! Text of scripts to steps. The language is described in `test/tcp/scripts/README.md`.

use std::time::Duration;

use super::segment::{ACK, FLAGS, Number, SYN, Said, Segment, Window};

/// One script: a fact and the dialogue that shows it.
#[derive(Debug)]
pub struct Script {
    /// The text behind `test`.
    pub name: String,
    pub line: usize,
    /// `Some(true)`: only on links with offloads.
    pub offloads: Option<bool>,
    pub steps: Vec<Step>,
}

/// A line, or several that belong together.
#[derive(Debug)]
pub struct Step {
    pub line: usize,
    pub text: String,
    pub act: Act,
}

#[derive(Debug)]
pub enum Act {
    /// A handshake, opened by the guest (`Some(true)`), by the host, or once by either.
    Connected(Option<bool>, Box<Segment>),
    /// Segments of one batch.
    Guest(Vec<Segment>),
    /// Segments until the window offered is full.
    GuestFills,
    Engine(Box<Expected>),
    Nothing(Duration),
    Host(Host),
}

/// A segment, or several in a row that only differ in position.
#[derive(Debug)]
pub struct Expected {
    /// When it comes, from the last event on; `None`: at once.
    pub after: Option<(Duration, Duration)>,
    /// Any number of them, none included.
    pub any: bool,
    pub segment: Segment,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Host {
    Connects,
    Accepts,
    Writes(usize),
    Reads(usize),
    ReadsAll,
    ReadsNothing,
    ReadsEnd,
    ReadsReset,
    ShutsDown,
    Closes,
    Resets,
    Refuses,
    NeverAnswers,
    Buffers(usize),
}

/// All scripts of a file.
///
/// # Errors
/// Line and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Script>, (usize, String)> {
    let mut scripts: Vec<Script> = Vec::new();
    for (n, full) in text.lines().enumerate() {
        let line = n + 1;
        let text = full.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        if let Some(name) = text.strip_prefix("test ") {
            scripts.push(Script { name: name.to_owned(), line, offloads: None, steps: Vec::new() });
            continue;
        }
        let at = |e: String| (line, e);
        let script = scripts.last_mut().ok_or_else(|| at("a script begins with `test`".to_owned()))?;
        if text == "on plain links" || text == "on links with offloads" {
            script.offloads = Some(text.ends_with("offloads"));
            continue;
        }
        let mut words = Words(text.split_whitespace().peekable());
        if text.starts_with("and ") {
            words.next().map_err(at)?;
            let more = of_guest(&mut words).map_err(at)?;
            words.end().map_err(at)?;
            match script.steps.last_mut().map(|s| &mut s.act) {
                Some(Act::Guest(batch)) => batch.push(more),
                _ => return Err((line, "`and` continues a batch of the guest".to_owned())),
            }
            continue;
        }
        let act = act(&mut words).map_err(at)?;
        words.end().map_err(at)?;
        script.steps.push(Step { line, text: text.to_owned(), act });
    }
    Ok(scripts)
}

fn act(words: &mut Words<'_>) -> Result<Act, String> {
    match words.next()? {
        "connected" => {
            let mut by = None;
            if words.skip("by") {
                by = match words.next()? {
                    "guest" => Some(true),
                    "host" => Some(false),
                    other => return Err(format!("who is {other}?")),
                };
            }
            let mut syn = Segment::new(SYN);
            fields(&mut syn, words)?;
            Ok(Act::Connected(by, Box::new(syn)))
        }
        "guest" if words.skip("fills") => {
            words.expect("the")?;
            words.expect("window")?;
            Ok(Act::GuestFills)
        }
        "guest" => Ok(Act::Guest(vec![of_guest(words)?])),
        "engine" => expected(words, None),
        "nothing" => {
            let time = if words.skip("for") { duration(words)?.0 } else { Duration::ZERO };
            Ok(Act::Nothing(time))
        }
        "after" => {
            let time = duration(words)?;
            words.expect("engine")?;
            expected(words, Some(time))
        }
        "host" => host(words).map(Act::Host),
        other => Err(format!("no line begins with `{other}`")),
    }
}

fn of_guest(words: &mut Words<'_>) -> Result<Segment, String> {
    let s = segment(words)?;
    let complete = s.seq.is_some() && (s.ack.is_some() || !s.has(ACK));
    if complete { Ok(s) } else { Err("a segment of the guest has numbers".to_owned()) }
}

fn expected(words: &mut Words<'_>, after: Option<(Duration, Duration)>) -> Result<Act, String> {
    let any = words.skip("any");
    Ok(Act::Engine(Box::new(Expected { after, any, segment: segment(words)? })))
}

fn host(words: &mut Words<'_>) -> Result<Host, String> {
    Ok(match words.next()? {
        "connects" => Host::Connects,
        "accepts" => Host::Accepts,
        "writes" => Host::Writes(number(words.next()?)?),
        "reads" if words.skip("all") => Host::ReadsAll,
        "reads" if words.skip("nothing") => Host::ReadsNothing,
        "reads" if words.skip("end") => Host::ReadsEnd,
        "reads" if words.skip("reset") => Host::ReadsReset,
        "reads" => Host::Reads(number(words.next()?)?),
        "shuts" => {
            words.expect("down")?;
            Host::ShutsDown
        }
        "closes" => Host::Closes,
        "resets" => Host::Resets,
        "refuses" => Host::Refuses,
        "never" => {
            words.expect("answers")?;
            Host::NeverAnswers
        }
        "buffers" => Host::Buffers(number(words.next()?)?),
        other => return Err(format!("the host knows no `{other}`")),
    })
}

/// `200 ms`, `1 s:`, `1..3 s`.
fn duration(words: &mut Words<'_>) -> Result<(Duration, Duration), String> {
    let amount = words.next()?;
    let (from, to) = amount.split_once("..").unwrap_or((amount, amount));
    let unit = match words.next()?.trim_end_matches(':') {
        "ms" => 1,
        "s" => 1000,
        other => return Err(format!("no unit of time: {other}")),
    };
    let time = |w| number::<u64>(w).map(|n| Duration::from_millis(n * unit));
    Ok((time(from)?, time(to)?))
}

/// `SYN+ACK seq 0 ack 1 win 500 mss 1460`.
fn segment(words: &mut Words<'_>) -> Result<Segment, String> {
    let mut flags = 0;
    for name in words.next()?.split('+').filter(|n| *n != "none") {
        let bit = FLAGS.iter().position(|f| *f == name).ok_or_else(|| format!("no flag: {name}"))?;
        flags |= 1 << bit;
    }
    let mut s = Segment::new(flags);
    fields(&mut s, words)?;
    Ok(s)
}

fn fields(s: &mut Segment, words: &mut Words<'_>) -> Result<(), String> {
    while let Ok(word) = words.next() {
        match word {
            "seq" => {
                let (from, to) = words.next().map(|w| w.split_once("..").unwrap_or((w, w)))?;
                s.seq = Some((position(from)?, position(to)?));
            }
            "ack" => s.ack = Some(position(words.next()?)?),
            "win" => s.window = Some(window(words.next()?)?),
            "mss" if words.skip("link") => s.mss = Said::Is(None),
            "mss" => s.mss = Said::Is(Some(number(words.next()?)?)),
            "wscale" => s.scale = Said::Is(number(words.next()?)?),
            "sackok" => s.sack_ok = Said::Is(()),
            "ts" => s.stamps = Said::Is((position(words.next()?)?, position(words.next()?)?)),
            "sack" => s.sacks = Said::Is(blocks(words)?),
            "no" => match words.next()? {
                "mss" => s.mss = Said::Absent,
                "wscale" => s.scale = Said::Absent,
                "sackok" => s.sack_ok = Said::Absent,
                "ts" => s.stamps = Said::Absent,
                "sack" => s.sacks = Said::Absent,
                other => return Err(format!("no option: {other}")),
            },
            "urg" => s.urgent = Some(number(words.next()?)?),
            "opt" => s.raw = hex(words.next()?)?,
            "gso" => s.gso = Some(number(words.next()?)?),
            "sport" => s.source_port = Some(number(words.next()?)?),
            "dport" => s.destination_port = Some(number(words.next()?)?),
            "anew" => s.anew = true,
            "beyond" => s.beyond = true,
            other => return Err(format!("a segment has no `{other}`")),
        }
    }
    Ok(())
}

/// `100`, `-5`, `=77` as on the wire, `next`, `next-1`, `-` for the latest.
fn position(word: &str) -> Result<Number, String> {
    if word == "-" {
        return Ok(Number::Latest);
    }
    if let Some(absolute) = word.strip_prefix('=') {
        return number(absolute).map(Number::Absolute);
    }
    match word.strip_prefix("next") {
        Some("") => Ok(Number::Next(0)),
        Some(off) => number(off.trim_start_matches('+')).map(Number::Next),
        None => number(word).map(Number::Relative),
    }
}

fn window(word: &str) -> Result<Window, String> {
    if let Some(least) = word.strip_prefix(">=") {
        return number(least).map(Window::AtLeast);
    }
    match word.strip_prefix('<') {
        Some(most) => number(most).map(Window::Below),
        None => number(word).map(Window::Is),
    }
}

/// `2001-3001 4001-5001`, as many as come.
fn blocks(words: &mut Words<'_>) -> Result<Vec<(Number, Number)>, String> {
    let mut out = Vec::new();
    while let Some((from, to)) =
        words.peek().filter(|w| w.starts_with(|c: char| c.is_ascii_digit())).and_then(|w| w.split_once('-'))
    {
        words.next()?;
        out.push((position(from)?, position(to)?));
    }
    if out.is_empty() { Err("which blocks?".to_owned()) } else { Ok(out) }
}

fn hex(word: &str) -> Result<Vec<u8>, String> {
    let digits = |at| word.get(at..at + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
    (0..word.len()).step_by(2).map(|at| digits(at).ok_or_else(|| format!("not hexadecimal: {word}"))).collect()
}

/// Digits may be grouped with `_`.
fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.replace('_', "").parse().map_err(|_| format!("not a number, or none that fits: {word}"))
}

/// The words of a line.
struct Words<'a>(std::iter::Peekable<std::str::SplitWhitespace<'a>>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| "the line ends too early".to_owned())
    }

    fn peek(&mut self) -> Option<&'a str> {
        self.0.peek().copied()
    }

    /// Takes the word if it is next.
    fn skip(&mut self, word: &str) -> bool {
        self.0.next_if_eq(&word).is_some()
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.skip(word) { Ok(()) } else { Err(format!("`{word}` is missing")) }
    }

    fn end(&mut self) -> Result<(), String> {
        self.peek().map_or(Ok(()), |w| Err(format!("what is `{w}` to mean?")))
    }
}
