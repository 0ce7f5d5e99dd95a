//! The list of options as a person reads it, in groups, for a terminal of 80 columns.

use super::planned::is_planned;
use super::table::{Def, Group, OPTIONS};

/// How the value of an option is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `--mtu MTU`
    Bare,
    /// `--mtu <MTU>`
    Pointed,
}

/// A paragraph for each group that has options among those `shown`. Options for later releases are not.
pub(super) fn groups(style: Value, shown: impl Fn(&Def) -> bool) -> String {
    let mut text = String::new();
    for (group, defs) in in_groups(&shown) {
        let lines: String = defs.into_iter().map(|d| entry(d, style)).collect();
        text.push_str(&format!("\n{}:\n{lines}", group.title()));
    }
    text
}

/// The groups that have options among those `shown`, with these.
pub(super) fn in_groups(shown: &impl Fn(&Def) -> bool) -> impl Iterator<Item = (Group, Vec<&'static Def>)> {
    let of = |group| OPTIONS.iter().filter(|d| d.group == group && !is_planned(d.opt) && shown(d)).collect();
    Group::ALL.into_iter().map(move |group| (group, of(group))).filter(|(_, defs): &(_, Vec<_>)| !defs.is_empty())
}

fn entry(def: &Def, style: Value) -> String {
    let short = def.short.map_or_else(|| "    ".to_string(), |c| format!("-{c}, "));
    let value = match (def.value, style) {
        (None, _) => String::new(),
        (Some(v), Value::Bare) => format!(" {v}"),
        (Some(v), Value::Pointed) => format!(" <{v}>"),
    };
    columns(&format!("  {short}--{}{value}", def.long), def.help)
}

/// `left`, then the words of `right` from a fixed column on.
pub(super) fn columns(left: &str, right: &str) -> String {
    let mut text = left.to_string();
    let mut at = text.len();
    if at + 2 > COLUMN {
        text.push('\n');
        at = 0;
    }
    text.push_str(&" ".repeat(COLUMN - at));
    at = COLUMN;
    for word in right.split(' ') {
        if at > COLUMN {
            if at + 1 + word.len() > WIDTH {
                text.push('\n');
                text.push_str(&" ".repeat(COLUMN));
                at = COLUMN;
            } else {
                text.push(' ');
                at += 1;
            }
        }
        text.push_str(word);
        at += word.len();
    }
    text + "\n"
}

const COLUMN: usize = 29;
const WIDTH: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_texts_stand_in_their_column() {
        let gap = " ".repeat(COLUMN);
        assert_eq!(columns("  -q", "Be quiet"), format!("  -q{}Be quiet\n", &gap[4..]));
        let long = "-".repeat(COLUMN - 1);
        assert_eq!(columns(&long, "x y"), format!("{long}\n{gap}x y\n"));
        let words = "word ".repeat(30);
        let text = columns("  -q", words.trim());
        assert!(text.lines().count() == 3 && text.lines().all(|l| l.len() <= WIDTH), "{text}");
        assert!(text.lines().skip(1).all(|l| l.starts_with(&format!("{gap}word"))), "{text}");
    }
}
