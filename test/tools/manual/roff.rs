//! The language of manual pages, man(7).

/// Lines of text end before this column.
const WIDTH: usize = 78;

pub fn subsection(title: &str) -> String {
    format!(".SS {}\n", escaped(title))
}

/// An item of a list: what it is called, in this language already, and the text about it.
pub fn entry(title: &str, text: &str) -> String {
    format!(".TP\n{title}\n{}", paragraph(text))
}

/// How an option is written.
pub fn option(short: Option<char>, long: Option<&str>, value: Option<&str>) -> String {
    let short = short.map(|c| bold(&format!("-{c}")));
    let long = long.map(|l| bold(&format!("--{l}")));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let value = value.map_or_else(String::new, |v| format!(" {}", self::value(v)));
    format!("{}{value}", names.join(", "))
}

pub fn bold(text: &str) -> String {
    format!("\\fB{}\\fP", escaped(text))
}

/// The name of a value.
pub fn value(name: &str) -> String {
    format!("\\fI{}\\fP", escaped(name))
}

fn paragraph(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let word = escaped(word);
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            lines.push_str(&whole(&line));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    // As a sentence, whether the table has one or not.
    let end = if line.ends_with(['.', ':', '?']) { "" } else { "." };
    lines + &whole(&(line + end))
}

/// A dot or a quote in front would make it a request.
fn whole(line: &str) -> String {
    let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
    format!("{guard}{line}\n")
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    let letters: Vec<char> = text.chars().collect();
    for (at, &letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|n| letters[n]);
        let after = letters.get(at + 1);
        let between_letters = before.is_some_and(char::is_alphabetic) && after.is_some_and(|c| c.is_alphabetic());
        match letter {
            '\\' => out.push_str("\\e"),
            // A hyphen in a word, but a minus in what is typed.
            '-' if between_letters && !text.trim_start_matches(['\'', '(']).starts_with('-') => out.push('-'),
            '-' => out.push_str("\\-"),
            '\'' if between_letters => out.push('\''),
            '\'' if before.is_none_or(|c| !c.is_alphanumeric()) && after.is_some() => out.push_str("\\(oq"),
            '\'' => out.push_str("\\(cq"),
            '"' => out.push_str("\\(dq"),
            '`' => out.push_str("\\(ga"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            '§' => out.push_str("\\(sc"),
            _ => out.push(letter),
        }
    }
    out
}
