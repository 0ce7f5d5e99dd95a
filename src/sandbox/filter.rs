//! The filter of system calls (seccomp(2)): what [`super::table`] allows, and nothing else. Another call is the end of the
//! process, with its name in the log ([`crate::sys::blocked`]): it is a bug of ours, or somebody else is at work in here. A few
//! have an error for an answer instead.
//!
//! The kernel remembers which calls are allowed whatever their arguments are, and does not run the filter for them (since
//! 5.11). So calls that frames and bytes cost have no conditions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::table::{self, Call, Role, Test};
use crate::sys::blocked;

/// Puts the filter on this thread, for good.
///
/// # Errors
/// `ENOSYS` or `EINVAL` if the kernel has none, [`io::ErrorKind::Unsupported`] if we have none for this machine.
pub fn install(role: Role) -> io::Result<()> {
    blocked::prepare()?;
    // The main one last: it does not allow to add another. The kernel takes the strictest answer of all.
    let mut programs = errors(role)?;
    programs.push(program(role, |_| true, SeccompAction::Trap, SeccompAction::Allow)?);
    for program in programs {
        seccompiler::apply_filter(&program).map_err(|e| match e {
            seccompiler::Error::Prctl(e) | seccompiler::Error::Seccomp(e) => e,
            other => io::Error::other(other),
        })?;
    }
    Ok(())
}

/// A filter has one answer for what it knows, so each error is one of its own.
fn errors(role: Role) -> io::Result<Vec<BpfProgram>> {
    let errnos: BTreeSet<i32> =
        table::all().filter(|call| call.roles.contains(role)).filter_map(|call| call.refused).collect();
    let of = |errno: i32| {
        program(role, |call| call.refused == Some(errno), SeccompAction::Allow, SeccompAction::Errno(errno as u32))
    };
    errnos.into_iter().map(of).collect()
}

fn program(
    role: Role,
    which: impl Fn(&Call) -> bool,
    others: SeccompAction,
    these: SeccompAction,
) -> io::Result<BpfProgram> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| io::Error::new(io::ErrorKind::Unsupported, "there is none for this kind of processor"))?;
    let mut rules = BTreeMap::new();
    for call in table::all().filter(|call| call.roles.contains(role) && which(call)) {
        rules.insert(call.number, conditions(call).map_err(io::Error::other)?);
    }
    SeccompFilter::new(rules, others, these, machine).and_then(BpfProgram::try_from).map_err(io::Error::other)
}

/// One of which must hold; none: always.
fn conditions(call: &Call) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |tests: &&[Test]| {
        let all = tests.iter().map(condition).collect::<Result<_, _>>()?;
        SeccompRule::new(all)
    };
    call.only.iter().map(rule).collect()
}

/// The kernel looks at the lower half of these arguments only: they are integers of 32 bits, or have no other bits.
fn condition(test: &Test) -> Result<SeccompCondition, BackendError> {
    let (index, operator, value) = match *test {
        Test::Is(index, value) => (index, SeccompCmpOp::Eq, value),
        Test::Bits(index, mask, value) => (index, SeccompCmpOp::MaskedEq(mask.into()), value),
        Test::Own(index) => (index, SeccompCmpOp::Eq, std::process::id()),
    };
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_filter_for_each_role() {
        for role in Role::all() {
            let program = program(role, |_| true, SeccompAction::Trap, SeccompAction::Allow).unwrap();
            assert!((50..2000).contains(&program.len()), "{role:?}: {}", program.len());
        }
    }
}
