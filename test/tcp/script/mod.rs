//! Dialogues between a guest and the engine, segment by segment, as `test/tcp/scripts/*.txt` tell them: what RFCs demand, one
//! fact a script. The language is described in `test/tcp/scripts/README.md`.
//!
//! Each script is played for several pairs of initial sequence numbers, over IPv4 and IPv6, on links with and without
//! offloads. Time is the script's alone; the host's sockets are real ones on loopback.

mod parse;
mod player;
mod rules;
mod segment;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parse::{Act, Script};
use player::Player;

/// The circumstances of one performance.
#[derive(Clone, Copy)]
pub struct Variant {
    v6: bool,
    offloads: bool,
    /// Who opens the connection, where a script leaves it open.
    by_guest: bool,
    /// Initial sequence numbers: the guest's and the engine's.
    isns: (u32, u32),
    /// The guest's clock of timestamps begins here.
    stamps: u32,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        let link = if self.offloads { "a link with offloads" } else { "a plain link" };
        let who = if self.by_guest { "guest" } else { "host" };
        write!(f, "over {family} on {link}, `connected` by the {who}, initial numbers {:?}", self.isns)
    }
}

/// Both directions wrap at once, one by one, at the sign and nowhere.
const NUMBERS: [((u32, u32), u32); 5] = [
    ((1_000_000, 70_000_000), 1_000_000),
    ((u32::MAX, u32::MAX), u32::MAX),
    ((u32::MAX - 1500, 5), 0),
    ((0, u32::MAX - 1500), u32::MAX - 2),
    ((i32::MAX as u32 - 700, i32::MAX as u32 - 2300), i32::MAX as u32),
];

/// `scripts!(name: "file")`: a test for each file.
macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                play_file(concat!(stringify!($name), ".txt"));
            }
        )*
        const FILES: &[&str] = &[$(concat!(stringify!($name), ".txt")),*];
    };
}

/// Scripts that ask for too much, or for less than comes, fail where they do.
#[test]
fn scripts_can_fail() {
    let outcome = |text: &str| match parse::parse(text) {
        Ok(scripts) => play(&scripts[0]).map(|_| ()),
        Err((line, e)) => Err(format!("{line}: {e}")),
    };
    let begin = "test x\nconnected\nguest ACK seq 1..11 ack 1\n";
    assert_eq!(outcome(&format!("{begin}engine ACK seq 1 ack 11\n")), Ok(()));
    for (text, start) in [
        ("engine ACK seq 1 ack 12", "4: engine ACK seq 1 ack 12\n  ack differs"),
        ("nothing", "4: nothing\n  nothing was to come, but ACK seq 1 ack 11"),
        ("", "1: at the end\n  nothing was to come, but ACK seq 1 ack 11"),
        ("after 200 ms: engine ACK ack 11", "4: after 200 ms: engine ACK ack 11\n  nothing was to come"),
        ("engine ACK seq 1 ack 11\nhost reads end", "5: host reads end\n  the host reads Ok"),
        ("engine ACK seq 1 ak 11", "4: a segment has no `ak`"),
        ("guest ACK seq 1", "4: a segment of the guest has numbers"),
    ] {
        let error = outcome(&format!("{begin}{text}\n")).unwrap_err();
        assert!(error.starts_with(start), "{text}: {error}");
    }
}

scripts! {
    rfc9293_open
    rfc9293_segments
    rfc9293_close
    rfc9293_window
    rfc9293_options
    rfc7323_window
    rfc5961
    rfc6298
    rfc5681
    timestamps
    sack
}

#[test]
fn all_files_of_scripts_are_played() {
    let mut there: Vec<String> =
        std::fs::read_dir(directory()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    there.retain(|f| f.ends_with(".txt"));
    there.sort();
    let mut known = FILES.to_vec();
    known.sort_unstable();
    assert_eq!(there, known);
}

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("test/tcp/scripts")
}

/// Plays all scripts of a file, or those whose names contain `$SCRIPT`; tells of each how it went.
fn play_file(file: &str) {
    let text = std::fs::read_to_string(directory().join(file)).unwrap();
    let scripts = parse::parse(&text).unwrap_or_else(|(line, e)| panic!("{file}:{line}: {e}"));
    let wanted = std::env::var("SCRIPT").unwrap_or_default();
    let mut failed = Vec::new();
    for script in scripts.iter().filter(|s| s.name.contains(&wanted)) {
        match play(script) {
            Ok(times) => println!("ok      {} ({times} times)", script.name),
            Err(e) => {
                println!("FAILED  {}\n{file}:{e}\n", script.name);
                failed.push(format!("{file}:{}: {}", script.line, script.name));
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} scripts failed:\n{}", failed.len(), scripts.len(), failed.join("\n"));
}

/// In all circumstances; returns how many there are.
fn play(script: &Script) -> Result<usize, String> {
    let all = variants(script);
    for v in &all {
        play_once(script, *v).map_err(|e| format!("{e}\n  {v}"))?;
    }
    Ok(all.len())
}

/// The circumstances in which a script is played.
fn variants(script: &Script) -> Vec<Variant> {
    let either = script.steps.iter().any(|s| matches!(s.act, Act::Connected(None, _)));
    // These move megabytes.
    let few = script.steps.iter().any(|s| matches!(s.act, Act::GuestFills));
    let mut out = Vec::new();
    for (isns, stamps) in if few { &NUMBERS[1..3] } else { &NUMBERS[..] } {
        for bits in 0..8u8 {
            let [v6, offloads, by_guest] = [0, 1, 2].map(|n| bits >> n & 1 == 1);
            let wanted = script.offloads.is_none_or(|o| o == offloads) && !(few && offloads);
            if wanted && (either || by_guest) {
                out.push(Variant { v6, offloads, by_guest, isns: *isns, stamps: *stamps });
            }
        }
    }
    out
}

/// The error begins with the line.
fn play_once(script: &Script, v: Variant) -> Result<(), String> {
    let mut player = Player::new(v);
    for step in &script.steps {
        let outcome = catch_unwind(AssertUnwindSafe(|| player.play(step))).unwrap_or_else(|p| Err(words_of(&*p)));
        outcome.map_err(|e| {
            format!("{}: {}\n  {e}\n  so far:\n    {}", step.line, step.text, player.log.join("\n    "))
        })?;
    }
    let end = catch_unwind(AssertUnwindSafe(|| player.finish())).unwrap_or_else(|p| Err(words_of(&*p)));
    end.map_err(|e| format!("{}: at the end\n  {e}\n  so far:\n    {}", script.line, player.log.join("\n    ")))
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without words"))
}
