//! Start-up: everything is opened, everything else is given up, and only then is the first frame read.

use std::ffi::OsString;
use std::io::Write;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use super::args::Respond;
use super::core::{Responder, Settings};
use super::engine::Follower;
use super::kernel::{Kernel, News};
use super::run::{Loop, Parts};
use super::sockets::Sockets;
use crate::config::{Lacks, LogFormat, usage};
use crate::control::place;
use crate::control::service::{Owner, Service};
use crate::logging::{self, LogSetup, Only};
use crate::sandbox::{self, Identity, Role};
use crate::sys::service::{self, Notifier};
use crate::sys::signal::Signals;
use crate::sys::text::Clean;
use crate::sys::{blocked, process};

/// Carries out `spelt respond`, whose name is the first of `args`, and returns the exit status.
pub fn main(args: Vec<OsString>) -> u8 {
    let options = match usage::parse::<Respond>("respond", args) {
        Ok(options) => options,
        Err(usage) => return usage.print(),
    };
    match start(&options) {
        Ok(()) => 0,
        Err(e) => {
            let text = format!("{e:#}");
            let _ = writeln!(std::io::stderr(), "spelt respond: {}", logging::plain(&text));
            logging::last_words(&text);
            1
        }
    }
}

fn start(options: &Respond) -> anyhow::Result<()> {
    // Not ours; but a path may still name one of them.
    let inherited = process::open_descriptors();
    let settings = options.settings()?;
    if settings.uplinks.iter().all(|u| u.rules.prefixes().next().is_none()) {
        bail!("nobody is answered for: give '--subnet' or '--arp'");
    }
    logging::init(&LogSetup {
        ident: "spelt",
        verbosity: options.verbosity(),
        foreground: true,
        format: LogFormat::default(),
        only: options.log_file.as_deref().map(|path| Only::File(path, LOG_BYTES)),
        control: options.control.as_deref().filter(|path| path.as_os_str() != "none"),
        prefix: false,
    })
    .map_err(anyhow::Error::msg)?;
    let manager = meet_manager();
    process::close_descriptors(inherited);
    let runas = options.runas.as_ref().map(Identity::of).transpose().map_err(anyhow::Error::msg)?.flatten();
    let identity = runas.or_else(|| if options.runas.is_none() { Identity::instead_of_root() } else { None });

    let lacks = if options.allow_degraded { Lacks::DEGRADED } else { Lacks::default() };
    // Before there is a socket for frames, which that process is to have nothing of.
    let engine = options.engine().filter(|_| !options.check);
    let follower = engine.map(|engine| Follower::start(engine, lacks)).transpose()?;

    let (mut responder, mut kernel, news) = (Responder::new(settings), Kernel::open()?, News::subscribe()?);
    let links = kernel.links()?;
    check_links(responder.settings(), &links)?;
    responder.set_links(links);
    let mut sockets = Sockets::open(responder.settings())?;
    if options.check {
        return tell(&summary(responder.settings()));
    }
    sockets.follow(&responder).context("cannot hear a link")?;
    let signals = Signals::new(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).context("cannot take signals")?;
    let parts = Parts { responder, sockets, kernel, news, follower, control: control(options)?, signals };
    serve(options, parts, identity, lacks, &manager)
}

fn control(options: &Respond) -> anyhow::Result<Option<Service>> {
    let owner = Owner::here(sandbox::is_privileged());
    let listener = place::listen(&options.control())?;
    listener.map(|listener| Service::new(listener, owner)).transpose().context("cannot serve the control socket")
}

fn serve(
    options: &Respond,
    parts: Parts,
    identity: Option<Identity>,
    lacks: Lacks,
    manager: &Notifier,
) -> anyhow::Result<()> {
    let create =
        |p| process::PidFile::create(p).with_context(|| format!("cannot write the PID file '{}'", p.display()));
    let pid_file = options.pid_file.as_deref().map(create).transpose()?;
    let summary = summary(parts.responder.settings());
    let code = Clean::list().inspect_err(|e| log::debug!("the code of the start stays in memory: {e}"));
    let mut serving = Loop::new(parts, code.ok())?;
    confine(options, identity, lacks)?;
    log::info!("{summary}");
    if let Some(file) = pid_file {
        file.write(std::process::id()).context("cannot write the PID file")?;
    }
    logging::started();
    tell_manager(manager, &format!("READY=1\nSTATUS={summary}"));
    serving.run()?;
    tell_manager(manager, "STOPPING=1\nSTATUS=Ending");
    Ok(())
}

/// From here on there are no files, no capabilities, and few system calls.
fn confine(options: &Respond, identity: Option<Identity>, lacks: Lacks) -> anyhow::Result<()> {
    blocked::tell_in("spelt", logging::last_resort());
    sandbox::enter(&sandbox::Params {
        identity,
        chroot_fallback: options.chroot_fallback,
        role: Some(Role::RESPONDER),
        alone: true,
        lacks,
        ..sandbox::Params::default()
    })?;
    Ok(())
}

/// A link to hear must be there; one behind may come later.
fn check_links(settings: &Settings, links: &super::links::Links) -> anyhow::Result<()> {
    for uplink in &settings.uplinks {
        let link = links.named(&uplink.name)?;
        if link.mac.is_none() {
            bail!(super::no_ethernet(&uplink.name));
        }
        if !link.up {
            log::warn!("'{}' is down: nothing will be heard until it is up", uplink.name);
        }
        if settings.behind.contains(&uplink.name) {
            bail!("'{}' cannot be asked behind: it is where the questions come from", uplink.name);
        }
    }
    for name in settings.behind.iter().filter(|name| links.named(name).is_err()) {
        log::warn!("there is no interface '{name}' yet: who is behind it is answered for when it has come");
    }
    Ok(())
}

/// One line: who is served, where.
fn summary(settings: &Settings) -> String {
    let of = |u: &super::core::Uplink| {
        let count = u.rules.prefixes().count();
        let first = u.rules.prefixes().next().map_or_else(String::new, |(p, _)| p.to_string());
        let what = if count == 1 { first } else { format!("{count} prefixes") };
        format!("{what} on {}", u.name)
    };
    let all: Vec<String> = settings.uplinks.iter().map(of).collect();
    format!("Answering for {}", all.join(", "))
}

fn meet_manager() -> Notifier {
    let manager = Notifier::open().unwrap_or_else(|(address, e)| {
        let address = address.to_string_lossy();
        log::warn!("cannot tell the service manager at '{address}' (NOTIFY_SOCKET) how things are: {e}");
        Notifier::default()
    });
    service::forget();
    manager
}

fn tell_manager(manager: &Notifier, lines: &str) {
    if let Err(e) = manager.tell(lines) {
        log::warn!("cannot tell the service manager (NOTIFY_SOCKET): {e}");
    }
}

fn tell(text: &str) -> anyhow::Result<()> {
    // A reader that went away is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

const LOG_BYTES: u64 = 1 << 20;
