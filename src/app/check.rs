//! `--check`: everything about a command line that can be told without starting: nothing listens, no file or namespace is
//! made, so that it may run beside the instance that it is about to replace.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nix::unistd::{AccessFlags, eaccess};
use socket2::{Domain, Socket, Type};

use super::activation::Activated;
use super::caller::Caller;
use super::machine;
use super::place::{inherited_namespaces, ns_target};
use super::plan::plan;
use super::rules::{forwards, rules_on};
use super::start::{check_source_addresses, select};
use super::summary::{Rules, summary};
use crate::base::Addr;
use crate::config::{Config, Mode};
use crate::fwd::{Rule, Side};
use crate::listen::{BindError, Reason};
use crate::sandbox::Identity;
use crate::{host, logging, ns};

/// What to print if all is well.
///
/// # Errors
/// What the start would fail with.
pub fn check(config: &Config) -> anyhow::Result<String> {
    config.runas.as_ref().map(Identity::of).transpose().map_err(anyhow::Error::msg)?;
    let activated = Activated::adopt(config)?;
    match &config.mode {
        Mode::Spawn { command, .. } => command.first().map_or(Ok(()), |program| executable(program))?,
        Mode::Attach { target, userns, netns_only } => {
            inherited_namespaces(config)?;
            ns::Namespace::open(&ns_target(target), userns.as_deref(), *netns_only)?;
        }
        Mode::Machine { .. } if activated.machine.is_some() => {}
        Mode::Machine { plug, .. } => machine::check(plug)?,
    }
    if !config.splice_only && !matches!(config.mode, Mode::Machine { .. }) {
        let tun = std::fs::File::options().read(true).write(true).open(TUN);
        tun.with_context(|| format!("cannot open {TUN}, which the guest's interface needs"))?;
    }
    let files = [("--log-file", &config.log_file), ("--pid", &config.pid_file), ("--pcap", &config.pcap)];
    for (option, path) in files {
        path.as_deref().map_or(Ok(()), |path| place_for_file(option, path))?;
    }
    Caller::adopt(config)?;
    config.log_fd.map_or(Ok(()), logging::check_descriptor).map_err(anyhow::Error::msg)?;
    let network = host::read(&select(config)?)?;
    let plan = plan(config, &network, 0);
    check_source_addresses(config)?;
    let forwards = forwards(config)?;
    for (_, forward) in forwards.iter().filter(|(_, f)| f.on == Side::Host) {
        interface_exists(&forward.rule, &forward.origin)?;
        may_be_bound(&forward.rule, &forward.origin, config.freebind)?;
    }
    let rules = Rules { inbound: rules_on(&forwards, Side::Host), outbound: rules_on(&forwards, Side::Guest) };
    if !config.json {
        return Ok("configuration is valid".into());
    }
    Ok(summary(config, &network, &plan, rules).json(env!("CARGO_PKG_VERSION"), None))
}

/// As execvp(3) would find it.
fn executable(program: &OsStr) -> anyhow::Result<()> {
    let shown = program.to_string_lossy();
    let may_run = |path: &Path| path.is_file() && eaccess(path, AccessFlags::X_OK).is_ok();
    if shown.contains('/') {
        let path = Path::new(program);
        ensure!(path.exists(), "command `{shown}` not found");
        ensure!(may_run(path), "cannot run `{shown}`: it is not executable");
        return Ok(());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    ensure!(std::env::split_paths(&path).any(|dir| may_run(&dir.join(program))), "command `{shown}` not found in PATH");
    Ok(())
}

/// A file can be created or written there, as far as names and modes tell.
fn place_for_file(option: &str, path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    ensure!(!path.is_dir(), "'{shown}' for option '{option}' is a directory: give the path of a file");
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    ensure!(dir.is_dir(), "the directory of '{shown}' for option '{option}' does not exist");
    let (written, what) = if path.exists() { (path, "it") } else { (dir, "a file in its directory") };
    eaccess(written, AccessFlags::W_OK)
        .map_err(std::io::Error::from)
        .with_context(|| format!("cannot write '{shown}' for option '{option}': this user may not write {what}"))
}

fn interface_exists(rule: &Rule, origin: &str) -> anyhow::Result<()> {
    match &rule.device {
        Some(name) if nix::net::if_::if_nametoindex(name.as_str()).is_err() => {
            bail!("interface `{name}` for option '{origin}' does not exist; `ip link` lists those that do")
        }
        _ => Ok(()),
    }
}

/// That the first port is no privileged one and the address is the host's. A TCP socket that never listens finds out about
/// both, for UDP too, and receives nothing; that the port is in use is no fault of the configuration.
fn may_be_bound(rule: &Rule, origin: &str, freebind: bool) -> anyhow::Result<()> {
    let addr = rule.listen.unwrap_or(Addr::V4_UNSPECIFIED);
    // A link-local address needs the scope of its interface.
    if rule.best_effort || rule.auto || !addr.is_v4() && addr.is_link_local() {
        return Ok(());
    }
    let socket = Socket::new(if addr.is_v4() { Domain::IPV4 } else { Domain::IPV6 }, Type::STREAM, None)?;
    if freebind {
        if addr.is_v4() { socket.set_freebind_v4(true)? } else { socket.set_freebind_v6(true)? }
    }
    match socket.bind(&SocketAddr::new(addr.to_ip(), rule.first).into()) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EADDRNOTAVAIL)) => {
            let e = BindError { port: rule.first, source: Reason(e) };
            bail!("{e} for option '{origin}'")
        }
        _ => Ok(()),
    }
}

const TUN: &str = "/dev/net/tun";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fwd::Proto;
    use crate::fwd::ports::{Ports, Spec};

    #[test]
    fn programs_are_looked_for_as_they_are_run() {
        for name in ["sh", "/bin/sh"] {
            assert!(executable(OsStr::new(name)).is_ok(), "{name}");
        }
        for (name, complaint) in [
            ("no-such-program-here", "`no-such-program-here` not found in PATH"),
            ("/no/such/program", "`/no/such/program` not found"),
            ("/etc/passwd", "not executable"),
            ("/bin/", "not executable"),
        ] {
            let error = executable(OsStr::new(name)).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn an_address_of_another_host_is_found_out() {
        let rule = |text: &str| {
            let spec = Spec::parse(Proto::Tcp, text).unwrap();
            Ports::Specs(vec![spec]).rules(&Ports::EPHEMERAL_DEFAULT).unwrap().remove(0)
        };
        // RFC 5737.
        let foreign = rule("192.0.2.254/5999");
        let error = may_be_bound(&foreign, "-t 192.0.2.254/5999", false).unwrap_err().to_string();
        assert_eq!(
            error,
            "Failed to bind port 5999 (Cannot assign requested address) for option '-t 192.0.2.254/5999'"
        );
        for (rule, freebind) in [(rule("192.0.2.254/59999"), true), (rule("192.0.2.254/all"), false)] {
            assert!(may_be_bound(&rule, "", freebind).is_ok());
        }
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!("127.0.0.1/{}", busy.local_addr().unwrap().port());
        assert!(may_be_bound(&rule(&text), "", false).is_ok());
    }

    #[test]
    fn files_need_a_directory() {
        for path in ["/tmp/x", "x", "./x"] {
            assert!(place_for_file("--pid", Path::new(path)).is_ok(), "{path}");
        }
        for path in ["/tmp", "/no/such/dir/x"] {
            let error = place_for_file("--pid", Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("'--pid'"), "{error}");
        }
    }
}
