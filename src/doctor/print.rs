//! Findings as text.

use std::ffi::OsString;
use std::fmt::Write;

use super::{Finding, State};

/// Lines in columns, and one more that sums up.
pub fn text(findings: &[Finding], coloured: bool) -> String {
    let width = findings.iter().map(|f| f.what.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { state, what, found, mend, .. } in findings {
        let mend = mend.as_ref().map(|m| format!("; to mend it: {m}")).unwrap_or_default();
        let (begin, end) = if coloured { (colour(*state), RESET) } else { ("", "") };
        // Writing to a String never fails.
        let _ = writeln!(text, "{begin}{:<7}{end}  {what:<width$}  {found}{mend}", name(*state));
    }
    let count = |state| findings.iter().filter(|f| f.state == state).count();
    let _ = match (count(State::Missing), count(State::Warning)) {
        (0, 0) => writeln!(text, "\nspelt can do all it knows here."),
        (0, warnings) => writeln!(text, "\nspelt can run here; warnings: {warnings}."),
        (missing, _) => writeln!(text, "\n`spelt run` does not start here; missing: {missing}."),
    };
    text
}

/// An array of objects, on one line.
pub fn json(findings: &[Finding]) -> String {
    // Fails only for maps with keys that are no text.
    serde_json::to_string(findings).unwrap_or_default()
}

/// Colours are for terminals that have them, and for users that have not asked for none (no-color.org).
pub fn may_colour(terminal: bool, variable: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let set = |name| variable(name).is_some_and(|value| !value.is_empty());
    terminal && !set("NO_COLOR") && variable("TERM").is_none_or(|term| term != "dumb")
}

fn name(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Missing => "missing",
    }
}

fn colour(state: State) -> &'static str {
    match state {
        State::Ok => "\x1b[32m",
        State::Warning => "\x1b[33m",
        State::Missing => "\x1b[31m",
    }
}

const RESET: &str = "\x1b[0m";

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Finding> {
        vec![
            Finding::ok("a", "one", "there"),
            Finding::warning("b", "number two", "not all", "do `this`"),
            Finding::missing("c", "three", "nothing", "see /there"),
        ]
    }

    #[test]
    fn lines_are_aligned_and_summed_up() {
        let expected = "\
ok       one         there
warning  number two  not all; to mend it: do `this`
missing  three       nothing; to mend it: see /there

`spelt run` does not start here; missing: 1.
";
        assert_eq!(text(&some(), false), expected);
        assert!(text(&some()[..2], false).ends_with("\nspelt can run here; warnings: 1.\n"));
        assert!(text(&some()[..1], false).ends_with("\nspelt can do all it knows here.\n"));
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let coloured = text(&some(), true);
        assert!(coloured.starts_with("\x1b[32mok     \x1b[0m  one"), "{coloured:?}");
        let plain = ["\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"].iter().fold(coloured, |t, c| t.replace(c, ""));
        assert_eq!(plain, text(&some(), false));
    }

    #[test]
    fn colours_are_for_terminals_whose_users_want_them() {
        let with = |name: &'static str, value: &'static str| move |asked: &str| (asked == name).then(|| value.into());
        assert!(may_colour(true, &with("TERM", "xterm")) && may_colour(true, &with("NO_COLOR", "")));
        assert!(!may_colour(false, &with("TERM", "xterm")) && !may_colour(true, &with("NO_COLOR", "1")));
        assert!(!may_colour(true, &with("TERM", "dumb")));
    }

    #[test]
    fn objects_have_a_stable_form() {
        let expected = serde_json::json!([
            {"id": "a", "state": "ok", "what": "one", "found": "there", "mend": null},
            {"id": "b", "state": "warning", "what": "number two", "found": "not all", "mend": "do `this`"},
            {"id": "c", "state": "missing", "what": "three", "found": "nothing", "mend": "see /there"},
        ]);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json(&some())).unwrap(), expected);
    }
}
