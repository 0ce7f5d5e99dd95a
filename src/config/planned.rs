//! Options that are read and checked but not implemented yet: the one list of them.

use super::table::Opt;
use super::types::Config;

impl Config {
    /// One sentence about the first option given that is not implemented yet.
    pub fn unsupported(&self) -> Option<String> {
        let name = PLANNED.iter().find_map(|p| (p.given)(self))?;
        Some(format!("Option '{name}' is not implemented yet in {}: leave it out", super::version()))
    }
}

/// True if help should not offer it.
pub(super) fn is_planned(opt: Opt) -> bool {
    PLANNED.iter().any(|p| p.opts.contains(&opt))
}

struct Planned {
    opts: &'static [Opt],
    /// The name of the option, if it was given.
    given: fn(&Config) -> Option<&'static str>,
}

static PLANNED: &[Planned] =
    &[Planned { opts: &[Opt::RepairPath, Opt::MigrateExit, Opt::MigrateNoLinger], given: |c| c.migration }];
