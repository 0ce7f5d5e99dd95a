//! The house's rules that a compiler does not check: imports go downwards only, `unsafe` lives in one place, and every
//! dependency has a licence that suits ours. doc/architecture.md has the reasons.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules and their layers. A module may import from lower layers and from itself; only L0 and L1 may import among
/// themselves.
const LAYERS: [(&str, u8); 27] = [
    ("base", 0),
    ("wire", 0),
    ("sys", 0),
    ("config", 1),
    ("fwd", 1),
    ("flow", 1),
    ("guest", 1),
    ("link", 2),
    ("gateway", 2),
    ("tcp", 2),
    ("udp", 2),
    ("icmp", 2),
    ("splice", 2),
    ("host", 3),
    ("ns", 3),
    ("listen", 3),
    ("sandbox", 3),
    ("control", 3),
    ("migrate", 3),
    ("logging", 3),
    ("app", 4),
    ("doctor", 4),
    ("respond", 4),
    ("ctl", 5),
    ("pesto", 5),
    ("lib", 6),
    ("main", 6),
];

/// Where `unsafe` may occur, as prefixes of paths below `src`: the kernel, and the call of a function compiled for
/// processors that were asked first.
const UNSAFE: [&str; 2] = ["sys/", "wire/checksum.rs"];

/// Licences of our dependencies; a choice needs one of them, a conjunction all.
const LICENCES: [&str; 9] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "0BSD",
];

#[test]
fn imports_go_downwards_only() {
    let mut broken = Vec::new();
    for file in sources() {
        let own = module_of(&file);
        let from = layer(&own);
        for (line, target) in imports(&file) {
            let to = layer(&target);
            let allowed = target == own || to < from || (to == from && from <= 1);
            if !allowed {
                broken.push(format!("{}:{line}: {own} (L{from}) imports {target} (L{to})", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn imports_are_recognised_in_every_form() {
    let text = "use crate::tcp::Engine;\nuse crate::{base::{Addr, Port}, udp};\nlet x = crate::link::open();\nuse mycrate::icmp;\n";
    let found: Vec<(usize, String)> = imports_in(text);
    let expected = [(1, "tcp"), (2, "base"), (2, "udp"), (3, "link")].map(|(line, name)| (line, name.to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn pure_modules_import_no_kernel() {
    let broken: Vec<String> = sources()
        .into_iter()
        .filter(|file| ["base", "wire"].contains(&module_of(file).as_str()))
        .flat_map(|file| imports(&file).into_iter().map(move |import| (file.clone(), import)))
        .filter(|(_, (_, target))| target == "sys")
        .map(|(file, (line, _))| format!("{}:{line}", file.display()))
        .collect();
    assert!(broken.is_empty(), "base and wire are pure: {}", broken.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let known: BTreeSet<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    let missing: BTreeSet<String> =
        sources().iter().map(|file| module_of(file)).filter(|name| !known.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "no layer is stated for {missing:?}");
}

#[test]
fn unsafe_lives_in_sys() {
    let mut found = Vec::new();
    for file in sources() {
        let below = file.strip_prefix(root().join("src")).expect("a source").to_string_lossy().into_owned();
        if UNSAFE.iter().any(|place| below.starts_with(place)) {
            continue;
        }
        for (number, line) in code_lines(&file) {
            if words(&line).any(|word| word == "unsafe") {
                found.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn licences_suit_ours() {
    // What other platforms would need is not there on a machine that has only built for this one.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let packages = packages(&text);
    assert!(packages.len() > 20, "only {} packages were recognised", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter(|(_, licence)| !is_accepted(licence))
        .map(|(name, licence)| format!("{name}: {licence}"))
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn licence_choices_and_conjunctions_are_understood() {
    for accepted in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(is_accepted(accepted), "{accepted}");
    }
    for refused in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND LGPL-2.1", ""] {
        assert!(!is_accepted(refused), "{refused}");
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join("src")];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 10, "the sources were not found");
    found
}

/// The module at the top of the crate that a file belongs to.
fn module_of(file: &Path) -> String {
    let below = file.strip_prefix(root().join("src")).expect("a source");
    let first = below.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn layer(module: &str) -> u8 {
    LAYERS.iter().find(|(name, _)| *name == module).map_or(u8::MAX, |(_, layer)| *layer)
}

/// Modules named after `crate::`, in `use` lines and paths alike, with the line's number. Groups (`crate::{a, b::c}`)
/// count with each of their members.
fn imports(file: &Path) -> Vec<(usize, String)> {
    imports_in(&code_lines(file).iter().map(|(_, line)| format!("{line}\n")).collect::<String>())
}

fn imports_in(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let preceded_by_name = text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        if preceded_by_name {
            continue;
        }
        let line = text[..at].matches('\n').count() + 1;
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group_members(group).into_iter().map(|name| (line, name)));
        } else {
            found.push((line, words(rest).next().unwrap_or_default().to_owned()));
        }
    }
    // Macros and items at the root of the crate are nobody's module.
    found.retain(|(_, name)| LAYERS.iter().any(|(known, _)| known == name));
    found
}

/// First names of the members of a group whose opening brace is already gone.
fn group_members(group: &str) -> Vec<String> {
    let mut members = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                members.extend(words(&group[start..at]).next().map(str::to_owned));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    members
}

/// Lines with their numbers, without what comments and string literals say.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(file).expect("a readable source");
    text.lines().enumerate().map(|(at, line)| (at + 1, without_comments_and_strings(line))).collect()
}

fn without_comments_and_strings(line: &str) -> String {
    let mut code = String::new();
    let mut in_string = false;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if in_string => drop(characters.next()),
            // A quotation mark as a character literal opens no string.
            '"' if !code.ends_with('\'') => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(c),
        }
    }
    code
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Names and licences out of `cargo metadata`. Its objects list `"name"`, `"version"`, `"id"`, `"license"` in this order,
/// which saves a JSON parser among the dependencies; a package without licence comes out with an empty one.
fn packages(metadata: &str) -> Vec<(String, String)> {
    metadata
        .split(r#"{"name":""#)
        .skip(1)
        .filter_map(|rest| {
            let name = rest.split('"').next()?;
            let head = rest.split(r#""dependencies":"#).next()?;
            let (_, after) = head.split_once(r#""license":"#)?;
            Some((name.to_owned(), after.strip_prefix('"').and_then(|a| a.split('"').next()).unwrap_or("").to_owned()))
        })
        .collect()
}

/// SPDX expressions as they occur: OR (also written `/`) and AND, with brackets around choices.
fn is_accepted(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ");
    split_outside(&plain, " AND ").iter().all(|part| {
        let part = part.trim();
        match part.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
            Some(inner) => is_accepted(inner),
            None => {
                let choices = split_outside(part, " OR ");
                if choices.len() > 1 {
                    choices.iter().any(|choice| is_accepted(choice))
                } else {
                    LICENCES.contains(&part)
                }
            }
        }
    })
}

/// Splits at a word that is not inside brackets.
fn split_outside<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 && at >= start && text[at..].starts_with(separator) => {
                parts.push(&text[start..at]);
                start = at + separator.len();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}
