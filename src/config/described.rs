//! The options of each command line as plain data, for the manual pages: what its help shows, and no more.

use super::table::{Def, Faces};
use super::{cli, help, pesto, slirp4netns};

/// An option, as the help tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// The heading that it stands under; empty where there are none.
    pub group: &'static str,
    pub short: Option<char>,
    /// Without the dashes.
    pub long: &'static str,
    /// Name of the value, if it takes one.
    pub value: Option<&'static str>,
    pub help: &'static str,
}

/// What the help of `pasta`, `passt`, `pesto` or `slirp4netns` lists, or of `spelt`'s `run`, `attach` or `vm`, in its order;
/// `spelt`: that of these three together. Nothing for another name.
pub fn described(program: &str) -> Vec<Described> {
    let spelt = [("run", Faces::RUN), ("attach", Faces::ATTACH), ("vm", Faces::VM)];
    match program {
        "pesto" => pesto::options().collect(),
        "slirp4netns" => slirp4netns::options().collect(),
        "pasta" => of_table(|d| d.faces.contains(Faces::PASTA)),
        "passt" => of_table(|d| d.faces.contains(Faces::PASST)),
        "spelt" => of_table(|d| spelt.iter().any(|(_, face)| cli::is_shown(d, *face))),
        _ => spelt.iter().find(|(name, _)| *name == program).map_or_else(Vec::new, |(_, face)| {
            let face = *face;
            of_table(move |d| cli::is_shown(d, face))
        }),
    }
}

fn of_table(shown: impl Fn(&Def) -> bool) -> Vec<Described> {
    let describe =
        |d: &Def| Described { group: d.group.title(), short: d.short, long: d.long, value: d.value, help: d.help };
    help::in_groups(&shown).flat_map(|(_, defs)| defs).map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Command, from_args};
    use super::*;

    /// Each option that the help shows is described, and no other.
    #[test]
    fn what_is_described_is_what_help_shows() {
        for (argv0, words) in [
            ("pasta", &["--help"][..]),
            ("passt", &["--help"]),
            ("pesto", &["--help"]),
            ("slirp4netns", &["--help"]),
            ("spelt", &["run", "--help"]),
            ("spelt", &["attach", "--help"]),
            ("spelt", &["vm", "--help"]),
        ] {
            let args = words.iter().map(Into::into).collect();
            let Ok(Command::Print { text, .. }) = from_args(argv0.as_ref(), args) else { panic!("{argv0} {words:?}") };
            let line = |l: &str| l.trim_start().split([' ', '=']).find(|w| w.starts_with("--")).map(str::to_owned);
            // Further in, there are lines of the texts beside them.
            let is_option = |l: &&str| l.trim_start().starts_with('-') && l.len() - l.trim_start().len() <= 6;
            let options = text.lines().filter(is_option);
            let mut shown: Vec<String> = options.filter_map(line).collect();
            let program = if words.len() > 1 { words[0] } else { argv0 };
            // clap's own two are not of the table.
            shown.retain(|name| argv0 != "spelt" || !["--help", "--version"].contains(&&**name));
            let described: Vec<String> = described(program).iter().map(|d| format!("--{}", d.long)).collect();
            assert_eq!(described, shown, "{program}");
        }
        assert!(described("nobody").is_empty());
        assert!(described("spelt").len() > described("run").len());
    }
}
