//! Start-up as a checklist, in the order that matters: what the caller named is opened while names mean what the caller
//! meant, the host's ports are bound, the namespace is made, everything that is not needed any more is given up, and only
//! then is the first byte of the guest read and the caller told that all is ready.

use std::fs::File;
use std::io::{self, Write};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use super::activation::Activated;
use super::caller::{self, Caller};
use super::captures;
use super::crew::Seat;
use super::desk::Clerk;
use super::engine::{Common, Engine, Parts, Protocols};
use super::follow::{self, Beginning, Following, Shown};
use super::links::{links, workers};
use super::machine::Plugged;
use super::place::Place;
use super::plan::{Plan, plan};
use super::ports::{Forwarding, Namespace};
use super::requests::Doors;
use super::rules::{
    BoundPorts, bind, flow_descriptors, forwards, needs_low_ports, port_descriptors, reaches_inside, rules_on,
    spare_descriptors,
};
use super::summary::{Rules, summary};
use super::supervise::{Guest, Supervisor};
use super::workers::Recruit;
use crate::base::{Clock, Counters};
use crate::config::{Config, Control, Mode};
use crate::control::slirp4netns::Api;
use crate::fwd::{Local, Side};
use crate::link::{Capture, Tee};
use crate::listen::{self, Listener};
use crate::logging::{self, LogSetup, Only, Summary};
use crate::sandbox::{Identity, Role};
use crate::sys::blocked;
use crate::sys::process::{self, Daemon, OpenFiles, PidFile};
use crate::sys::sockets::{Here, Nobody};
use crate::{host, ns, sandbox};

/// Runs what the configuration asks for, to its end, and returns the exit status.
///
/// # Errors
/// One sentence, with its causes, for a person.
pub fn start(config: &Config) -> anyhow::Result<u8> {
    // Not ours, and a pipe among them would keep our caller waiting; but a path may still name one of them.
    let inherited = process::open_descriptors();
    let mut caller = Caller::adopt(config)?;
    let mut activated = Activated::adopt(config)?;
    start_log(config, &activated)?;
    let runas = config.runas.as_ref().map(Identity::of).transpose().map_err(anyhow::Error::msg)?.flatten();
    let open_files = process::raise_open_files().context("cannot raise the limit on open files")?;
    let place = Place::open(config, activated.machine.take())?;
    caller.meet_manager(config);
    process::close_descriptors(inherited);
    let files = Files::open(config)?;

    let (network, follower) = read_host(config)?;
    let neighbours = follow::neighbours(&network);
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).context("the kernel gives no random bytes")?;
    let seed = u64::from_ne_bytes(seed);
    let plan = plan(config, &network, seed);
    check_source_addresses(config)?;
    let mut forwards = forwards(config)?;
    let rules = Rules { inbound: rules_on(&forwards, Side::Host), outbound: rules_on(&forwards, Side::Guest) };
    let socket = if let Place::Machine(plugged, _) = &place { plugged.path() } else { None };
    let summary = Summary { socket: socket.map(PathBuf::from), ..summary(config, &network, &plan, rules) };
    let descriptors = spare(config, activated.control.is_some(), reaches_inside(config, &forwards));
    forwards.set_budget(port_descriptors(&forwards, descriptors));
    let shown = Shown::new(&summary);
    let beginning = Beginning { network: &network, plan: &plan, seed };
    let following = follower.map(|host| Following::new(host, config, beginning, &shown));

    let daemon = caller::to_background(config)?;
    let options = listen::Options { v4: config.v4, v6: config.v6 && host::has_ipv6(), freebind: config.freebind };
    let bind = || bind(&forwards, Side::Host, descriptors, &options, &mut Here);
    let Made { guest, plugged, ports, identity } = make_guest(config, &plan, place, (runas, open_files), bind)?;
    let listeners = ports.noted_in(&mut forwards);
    let doors = Doors::open(config, activated.control)?;
    let forwarding = Forwarding {
        host: Namespace::here(forwards.follows(Side::Host), doors.is_any()),
        guest: Namespace { sockets: Box::new(Nobody), diag: None },
        forwards,
        options,
    };
    let api = config.api_socket.as_deref().map(|path| open_api(path, &plan)).transpose()?;
    let opened = Opened {
        plugged,
        listeners,
        forwarding,
        descriptors,
        api,
        doors,
        files,
        daemon,
        caller,
        neighbours,
        following,
        shown,
        identity,
        summary,
    };
    serve(config, &plan, guest, opened)
}

/// What the host has, and how to follow that, if it is to be followed.
fn read_host(config: &Config) -> anyhow::Result<(host::Network, Option<host::Follower>)> {
    let select = select(config)?;
    // Before the reading, so that nothing changes in between.
    let follower = follow::open(config, &select);
    let network = host::read(&select)?;
    network.notices.iter().for_each(|notice| log::info!("{notice}"));
    Ok((network, follower))
}

/// Descriptors for ports and flows. `passed`: as in [`Doors::descriptors`]; `inside`: as in [`spare_descriptors`].
fn spare(config: &Config, passed: bool, inside: bool) -> usize {
    let descriptors = spare_descriptors(inside, config.api_socket.is_some(), config.vhost_user)
        .saturating_sub(Doors::descriptors(config, passed));
    // The first queue of the tap, and what the first worker has, are among those that are taken off.
    let more =
        usize::from(config.queues.unwrap_or(Config::QUEUES_DEFAULT) - 1) + Seat::DESCRIPTORS * (workers(config) - 1);
    descriptors.saturating_sub(more)
}

/// What had to be opened while there were still a file system and privileges to open it with.
struct Opened {
    /// A virtual machine's socket.
    plugged: Option<Plugged>,
    listeners: Vec<Listener>,
    forwarding: Forwarding,
    /// For ports and flows.
    descriptors: usize,
    api: Option<Api>,
    doors: Doors,
    files: Files,
    daemon: Option<Daemon>,
    caller: Caller,
    neighbours: Option<host::Neighbours>,
    following: Option<Following>,
    /// What the control thread is to say of the configuration.
    shown: Shown,
    /// Whom to become when all is open.
    identity: Option<Identity>,
    /// What to tell the user when all went well.
    summary: Summary,
}

struct Files {
    capture: Option<Capture>,
    pid_file: Option<PidFile>,
    /// `/dev/null`.
    null: File,
}

impl Files {
    fn open(config: &Config) -> anyhow::Result<Files> {
        let pid_file =
            |p: &PathBuf| PidFile::create(p).with_context(|| format!("cannot write the PID file '{}'", p.display()));
        Ok(Files {
            capture: config.pcap.as_deref().map(open_capture).transpose()?,
            pid_file: config.pid_file.as_ref().map(pid_file).transpose()?,
            null: File::options().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?,
        })
    }
}

/// Who is served, and what was opened for them.
struct Made {
    guest: Guest,
    plugged: Option<Plugged>,
    ports: BoundPorts,
    /// Whom to become when all is open.
    identity: Option<Identity>,
}

/// Makes the guest's namespace, if it is ours to make, while the host's ports are bound.
fn make_guest(
    config: &Config,
    plan: &Plan,
    place: Place,
    (runas, open_files): (Option<Identity>, OpenFiles),
    bind: impl Fn() -> anyhow::Result<BoundPorts>,
) -> anyhow::Result<Made> {
    match place {
        Place::New(userns) => {
            // Ports below 1024 are still to be had.
            let early = (runas.is_some() || userns.is_some()).then(&bind).transpose()?;
            if let Some(user) = runas {
                // The command is to be that user's, as if they had started us.
                sandbox::become_user(user)?;
            }
            if let Some(userns) = &userns {
                userns.enter()?;
            }
            let child = ns::spawn(&spawn(config, plan, userns.is_some(), open_files))?;
            let ports = early.map_or_else(bind, Ok)?;
            Ok(Made { guest: Guest::Spawned(child), plugged: None, ports, identity: None })
        }
        Place::Given(namespace) => {
            let identity = if config.runas.is_none() && !namespace.is_polled() { instead_of_root() } else { runas };
            Ok(Made { guest: Guest::Attached(namespace), plugged: None, ports: bind()?, identity })
        }
        Place::Machine(plugged, one_off) => {
            let identity = if config.runas.is_none() { instead_of_root() } else { runas };
            Ok(Made { guest: Guest::Machine { one_off }, plugged: Some(plugged), ports: bind()?, identity })
        }
    }
}

fn instead_of_root() -> Option<Identity> {
    let identity = Identity::instead_of_root();
    if let Some(user) = identity {
        log::info!("Started as root: will go on as user {} (option '--runas' names another)", user.uid);
    }
    identity
}

fn serve(config: &Config, plan: &Plan, mut guest: Guest, mut opened: Opened) -> anyhow::Result<u8> {
    let params = helper(config, Role::UPKEEP, opened.identity.filter(|_| guest.has_our_users()));
    let mut tap = guest.tap(&plan.interface, config.keeps_up().then_some(|| sandbox::enter(&params)))?;
    let upkeep = tap.as_mut().and_then(|tap| tap.upkeep.take());
    let alone = upkeep.is_none();
    if let Some(following) = &mut opened.following {
        following.keep_up(upkeep);
        let params = helper(config, Role::READER, Identity::instead_of_root());
        following.read_names(|beneath| sandbox::enter_to_read(&params, beneath));
    }
    for w in tap.iter().flat_map(|t| &t.warnings) {
        log::warn!("{w}");
    }
    let local = reach_inside(config, &guest, &mut opened)?;
    // Outlives the engine: closing an inotify instance takes milliseconds in which the ports would still be bound.
    let mut supervisor = Supervisor::new(guest, config.netns_quit, opened.caller.exit.take(), config.linger)?;
    let (daemon, identity, pid_file) = (opened.daemon.take(), opened.identity, opened.files.pid_file.take());
    let (mut caller, summary) = (std::mem::take(&mut opened.caller), std::mem::take(&mut opened.summary));
    let null = opened.files.null.try_clone().context("no descriptor is left")?;
    // With requests, ports below 1024 may be asked for later.
    let asked = opened.api.is_some() || opened.doors.is_any();
    let bind_low_ports = needs_low_ports(&opened.forwarding.forwards) || asked;
    let shown = opened.shown.clone();
    let (mut engine, others, doors, clerks) =
        engine(config, plan, tap, local, opened).context("cannot set up the event loop")?;
    let servants = doors.servants(config, &plan.interface.name, clerks, shown, local.is_some());
    let (servants, recordings) = servants.context("cannot set up the threads for requests")?;
    supervisor.register(&mut engine)?;
    let role = role(config);
    let params = sandbox::Params {
        bind_low_ports,
        configure: false,
        identity,
        chroot_fallback: config.chroot_fallback,
        role: Some(role),
        alone: role != Role::RUN && local.is_none() && alone,
        ends_with_parent: false,
        lacks: config.lacks,
    };
    blocked::tell_in(config.personality.name(), logging::last_resort());
    sandbox::enter_process(&params)?;
    engine.start_workers(others, servants, params)?;
    sandbox::confine_thread(&params)?;
    engine.let_workers_go();
    // Before the caller is told that all is ready: what the guest has bound already can be reached then.
    engine.scan_ports();
    announce(config, &summary);
    // Some wait for it, and take it for the word that all is ready.
    if let Some(file) = pid_file {
        file.write(std::process::id()).context("cannot write the PID file")?;
    }
    tell_ready(daemon, &mut caller, &null)?;
    let served = supervisor.run(&mut engine);
    caller.ending();
    captures::finish(&mut engine, recordings.as_ref());
    let status = served?;
    report(&engine.counters());
    Ok(status)
}

fn tell_ready(daemon: Option<Daemon>, caller: &mut Caller, null: &File) -> anyhow::Result<()> {
    match daemon {
        Some(daemon) => {
            logging::detach_stderr();
            // Before the parent's end, which would be the service's.
            caller.in_background();
            daemon.ready(null).context("cannot let go of the terminal")?;
        }
        None => logging::started(),
    }
    caller.ready();
    Ok(())
}

/// The first worker, what the others begin with, where requests come, and how to ask each worker, if any do.
fn engine(
    config: &Config,
    plan: &Plan,
    tap: Option<ns::Tap>,
    local: Option<Local>,
    opened: Opened,
) -> io::Result<(Engine, Vec<Recruit>, Doors, Vec<Clerk>)> {
    let l2 = plan.l2(config, tap.as_ref().map(|t| t.mac), tap.as_ref().and_then(|t| t.link_local));
    let common = Common {
        clock: Clock::start(),
        l2,
        nat: plan.nat.clone(),
        outbound: plan.outbound.clone(),
        gateway: plan.gateway.clone(),
        protocols: Protocols { tcp: config.tcp, udp: config.udp, icmp: config.icmp },
        descriptors: flow_descriptors(&opened.forwarding.forwards, opened.descriptors, opened.listeners.len()),
        udp_timeouts: udp_timeouts(),
    };
    let mut seats = Seat::for_crew(workers(config))?;
    let clerks = seats.iter_mut().filter(|_| opened.doors.is_any()).map(Seat::open_desk).collect::<io::Result<_>>()?;
    let tee = (Tee::new(opened.files.capture), seats.len());
    let links = links(plan.mtu, tap, opened.plugged, config.vhost_user, tee);
    let mut crew = seats.into_iter().zip(links).map(|(seat, link)| Recruit { seat, link, common: common.clone() });
    let Some(Recruit { seat, link, common }) = crew.next() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let Opened { listeners, forwarding, neighbours, following, doors, .. } = opened;
    let parts = Parts { link, common, listeners, forwarding, local, neighbours, following };
    let mut engine = Engine::new(parts, seat)?;
    if let Some(api) = opened.api {
        engine.serve_api(api)?;
    }
    if let Some(seconds) = config.stats_secs {
        engine.print_stats(Duration::from_secs(seconds.into()));
    }
    let others = crew.collect();
    Ok((engine, others, doors, clerks))
}

fn role(config: &Config) -> Role {
    match config.mode {
        Mode::Spawn { .. } => Role::RUN,
        Mode::Attach { .. } => Role::ATTACH,
        Mode::Machine { .. } if config.vhost_user => Role::CARD,
        Mode::Machine { .. } => Role::MACHINE,
    }
}

/// What is left of a helper of ours.
fn helper(config: &Config, role: Role, identity: Option<Identity>) -> sandbox::Params {
    sandbox::Params {
        bind_low_ports: role == Role::BROKER,
        configure: role == Role::UPKEEP,
        identity,
        chroot_fallback: config.chroot_fallback,
        role: Some(role),
        alone: true,
        ends_with_parent: true,
        lacks: config.lacks,
    }
}

/// Starts what makes sockets in the guest's namespace, if anything needs them, and opens the ports that lead out of it.
fn reach_inside(config: &Config, guest: &Guest, opened: &mut Opened) -> anyhow::Result<Option<Local>> {
    let f = &mut opened.forwarding;
    if !reaches_inside(config, &f.forwards) {
        return Ok(None);
    }
    let params = helper(config, Role::BROKER, opened.identity.filter(|_| guest.has_our_users()));
    let Some(mut broker) = guest.broker(|| sandbox::enter(&params))? else { return Ok(None) };
    broker.ready()?;
    let ports = bind(&f.forwards, Side::Guest, opened.descriptors, &f.options, &mut broker)?;
    opened.listeners.extend(ports.noted_in(&mut f.forwards));
    if f.forwards.follows(Side::Guest) || opened.doors.is_any() {
        let level = if f.forwards.follows(Side::Guest) { log::Level::Warn } else { log::Level::Debug };
        let tell = |e: &io::Error| log::log!(level, "cannot see which ports are in use in the guest: {e}");
        f.guest.diag = broker.make_diag().and_then(host::SockDiag::new).inspect_err(tell).ok();
    }
    f.guest.sockets = Box::new(broker);
    Ok(Some(Local { on: config.splice, to_loopback: config.host_lo_to_ns_lo || config.splice_only }))
}

/// Tells the user, or the program that asked, what was decided.
fn announce(config: &Config, summary: &Summary) {
    if config.json {
        let object = summary.json(env!("CARGO_PKG_VERSION"), Some(std::process::id()));
        // A reader that went away is nobody to tell.
        let _ = writeln!(std::io::stdout(), "{object}");
    } else if log::log_enabled!(log::Level::Info) {
        summary.lines().iter().for_each(|line| log::info!("{line}"));
    }
    if let Some(banner) = config.banner() {
        // Whether anybody reads it is the caller's business.
        let _ = std::io::stdout().write_all(banner.as_bytes());
    }
}

fn start_log(config: &Config, activated: &Activated) -> anyhow::Result<()> {
    let passed = activated.control_path();
    let setup = LogSetup {
        ident: config.personality.name(),
        verbosity: config.verbosity,
        foreground: config.foreground,
        format: config.log_format,
        only: match (&config.log_file, config.log_fd) {
            (Some(path), _) => Some(Only::File(path, config.log_size_bytes)),
            (None, Some(fd)) => Some(Only::Descriptor(fd)),
            (None, None) => None,
        },
        control: match &config.control {
            Control::At(path) => Some(path),
            Control::Default | Control::Off => passed.as_deref(),
        },
        prefix: matches!(config.mode, Mode::Spawn { .. }),
    };
    logging::init(&setup).map_err(anyhow::Error::msg)?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    if let Some(names) = &activated.unused {
        log::warn!(
            "sockets from the service manager are not used (LISTEN_FDS): {names}; a control socket is called 'control' \
             (FileDescriptorName=)"
        );
    }
    Ok(())
}

/// What was not forwarded, and why, for whoever looks at the log.
fn report(counters: &Counters) {
    log::debug!("{} frames from the guest, {} to it", counters.frames_from_guest, counters.frames_to_guest);
    for (reason, count) in counters.drops() {
        log::debug!(reason = reason.name(), count = count; "dropped {count}: {}", reason.name());
    }
}

pub(super) fn select(config: &Config) -> anyhow::Result<host::Select> {
    if !config.v4 && !host::has_ipv6() {
        bail!("this kernel has no IPv6: leave out option '--ipv6-only'");
    }
    Ok(host::Select {
        interface: config.interface.clone(),
        outbound: config.outbound_if.clone(),
        v4: config.v4,
        v6: config.v6,
    })
}

fn spawn(config: &Config, plan: &Plan, joined: bool, open_files: OpenFiles) -> ns::Spawn {
    let (command, netns_only) = match &config.mode {
        Mode::Spawn { command, netns_only, .. } => (command.clone(), *netns_only),
        Mode::Attach { .. } | Mode::Machine { .. } => Default::default(),
    };
    ns::Spawn {
        interface: plan.interface.clone(),
        command,
        hostname: config.hostname.clone(),
        resolv_conf: plan.resolv_conf.as_ref().map(|s| s.clone().into_bytes()),
        upkeep: config.keeps_up(),
        user_namespace: !netns_only && !joined,
        pid_namespace: config.pidns,
        program: config.personality.name(),
        open_files: Some(open_files),
    }
}

fn open_api(path: &std::path::Path, plan: &Plan) -> anyhow::Result<Api> {
    Api::bind(path, plan.nat.assigned)
        .with_context(|| format!("cannot listen at the socket '{}' (option '--api-socket')", path.display()))
}

fn open_capture(path: &std::path::Path) -> anyhow::Result<Capture> {
    Capture::create(path)
        .with_context(|| format!("cannot write the capture file '{}' (option '--pcap')", path.display()))
}

/// Every connection would fail that is to come from an address this host does not have.
pub(super) fn check_source_addresses(config: &Config) -> anyhow::Result<()> {
    let given = [config.outbound_addr.v4, config.outbound_addr.v6].into_iter().flatten();
    // A link-local address is one only together with an interface.
    for addr in given.filter(|a| a.is_v4() || !a.is_link_local()) {
        UdpSocket::bind((addr.to_ip(), 0)).with_context(|| {
            format!("connections cannot come from '{addr}' (option '--outbound'; `ip addr` lists what this host has)")
        })?;
    }
    Ok(())
}

/// Those of the host's connection tracking, so that a flow lives here as long as behind the host's own NAT.
fn udp_timeouts() -> (Duration, Duration) {
    let read = |name: &str, default| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok();
        let seconds = text.and_then(|t| t.trim().parse().ok()).filter(|s| (1..=86400).contains(s));
        Duration::from_secs(seconds.unwrap_or(default))
    };
    (read("nf_conntrack_udp_timeout", 30), read("nf_conntrack_udp_timeout_stream", 120))
}
