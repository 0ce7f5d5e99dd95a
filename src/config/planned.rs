//! Options that are read and checked but not implemented yet: the one list of them.

use super::table::Opt;
use super::types::Config;

impl Config {
    /// One sentence about the first option given that is not implemented yet.
    pub fn unsupported(&self) -> Option<String> {
        let option = PLANNED.iter().find(|p| (p.used)(self));
        option.map(|p| format!("Option '{}' is not implemented yet in {}: leave it out", p.name, super::version()))
    }
}

/// True if help should not offer it.
pub(super) fn is_planned(opt: Opt) -> bool {
    PLANNED.iter().any(|p| p.opt == opt)
}

struct Planned {
    opt: Opt,
    name: &'static str,
    used: fn(&Config) -> bool,
}

static PLANNED: &[Planned] = &[Planned { opt: Opt::ConfPath, name: "--conf-path", used: |c| c.conf_path.is_some() }];
