//! What the second process does: the code under test, in a process with one thread.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use spelt::base::{Addr, Prefix, Route};
use spelt::host::{self, Select};
use spelt::ns::{self, Interface, Namespace, Spawn, Target, Watch};
use spelt::sandbox;
use spelt::sys::process;

use super::{broker, text};

pub fn second_process(name: &str) -> ! {
    let status = match name {
        "run" => run_command(|_| Ok(())),
        "signal" => run_command(|child| {
            std::thread::sleep(Duration::from_millis(100));
            child.signal(libc::SIGTERM).map_err(|e| e.to_string())
        }),
        "sandboxed" => run_command(|_| sandbox::enter(&sandbox::Params::default()).map_err(|e| e.to_string())),
        "sandboxed-signal" => run_command(|child| {
            sandbox::enter(&sandbox::Params::default()).map_err(|e| e.to_string())?;
            std::thread::sleep(Duration::from_millis(100));
            child.signal(libc::SIGTERM).map_err(|e| e.to_string())
        }),
        "look-around" => look_around(),
        "attach" => attach(interface(true), false),
        "attach-bare" => attach(Interface { name: "tap0".into(), ..interface(false) }, false),
        "attach-until-gone" => attach(interface(true), true),
        "template" => template(),
        "daemon" => daemon(),
        "time" => time(),
        other => broker::second_process(other).unwrap_or_else(|| Err(format!("no scenario {other}"))),
    };
    let code = status.unwrap_or_else(|e| {
        eprintln!("{e}");
        1
    });
    let _ = std::io::stdout().flush();
    process::exit_now(code);
}

pub fn interface(configure: bool) -> Interface {
    let addr = |s: &str| -> Addr { s.parse::<std::net::IpAddr>().unwrap().into() };
    Interface {
        name: "eth0".into(),
        mac: None,
        mtu: Some(65520),
        queues: std::env::var("QUEUES").map_or(1, |n| n.parse().unwrap()),
        fewer_will_do: false,
        queue_frames: Interface::QUEUE_FRAMES,
        loopback_only: false,
        configure,
        ipv6: true,
        addrs: vec![Prefix::new(addr("192.0.2.7"), 24), Prefix::new(addr("2001:db8::7"), 64)],
        routes: vec![
            Route::default_via(addr("192.0.2.1")),
            Route::new(Prefix::new(addr("192.0.2.0"), 24), None),
            Route::default_via(addr("fe80::1")),
        ],
    }
}

pub fn spawn_of(interface: Interface, command: Vec<String>) -> Spawn {
    Spawn {
        interface,
        command: command.into_iter().map(Into::into).collect(),
        hostname: None,
        resolv_conf: Some(b"nameserver 192.0.2.53\n".to_vec()),
        user_namespace: true,
        upkeep: false,
        pid_namespace: std::env::var_os("NO_PID_NAMESPACE").is_none(),
        program: "spelt",
        open_files: Some(process::raise_open_files().unwrap()),
    }
}

pub fn command() -> Vec<String> {
    match (std::env::var("PROGRAM"), std::env::var("COMMAND")) {
        (Ok(program), _) => vec![program],
        (_, Ok(script)) => vec!["sh".into(), "-c".into(), script],
        _ => vec!["true".into()],
    }
}

/// Nobody changes the interface later.
const NOT_TO_STAY: Option<fn() -> Result<(), String>> = None;

fn run_command(then: impl FnOnce(&ns::Child) -> Result<(), String>) -> Result<i32, String> {
    run_in(interface(true), then)
}

fn run_in(interface: Interface, then: impl FnOnce(&ns::Child) -> Result<(), String>) -> Result<i32, String> {
    let mut child = ns::spawn(&spawn_of(interface, command())).map_err(|e| e.to_string())?;
    let tap = child.tap().map_err(|e| e.to_string())?;
    for w in &tap.warnings {
        eprintln!("{w}");
    }
    child.go().map_err(|e| e.to_string())?;
    then(&child)?;
    wait(&mut child)
}

pub fn wait(child: &mut ns::Child) -> Result<i32, String> {
    let mut fds = [PollFd::new(child.pidfd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE).map_err(|e| e.to_string())?;
    child.try_wait().map_err(|e| e.to_string())?.map(i32::from).ok_or_else(|| "readable but not ended".into())
}

fn look_around() -> Result<i32, String> {
    let mut child = ns::spawn(&spawn_of(interface(true), command())).map_err(|e| e.to_string())?;
    let tap = child.tap().map_err(|e| e.to_string())?;
    let (net, status) = (nix::unistd::getuid(), std::fs::File::open("/proc/self/status").map_err(|e| e.to_string())?);
    sandbox::enter(&sandbox::Params::default()).map_err(|e| e.to_string())?;
    // Landlock, where there is one, lets nobody list directories, and says nothing about names.
    let names = ["etc", "proc", "sys", "dev", "tmp", "run", "usr", "home", "root"];
    let found = names.iter().filter(|name| Path::new("/").join(name).symlink_metadata().is_ok());
    println!("files: {}", std::fs::read_dir("/").map_or(0, Iterator::count) + found.count());
    println!("passwd: {}", std::fs::read("/etc/passwd").unwrap_err());
    println!("user: {}", if net == nix::unistd::getuid() { "same" } else { "other" });
    let mut text = String::new();
    (&status).read_to_string(&mut text).map_err(|e| e.to_string())?;
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("none");
        u64::from_str_radix(line.trim_start_matches([':', '\t']), 16).unwrap_or(u64::MAX)
    };
    let names = ["CapEff", "CapPrm", "CapBnd", "NoNewPrivs"];
    println!("{}", names.map(|n| format!("{n}: {:x}", field(n))).join(" "));
    println!("tap: {:?}", tap.offloads);
    child.go().map_err(|e| e.to_string())?;
    wait(&mut child)
}

fn attach(interface: Interface, until_gone: bool) -> Result<i32, String> {
    let target = std::env::var("TARGET").map_err(|e| e.to_string())?;
    let target = match target.split_once(':') {
        Some(("pid", pid)) => Target::Pid(pid.parse().map_err(|_| "bad pid".to_string())?),
        Some(("path", path)) => Target::Path(path.into()),
        Some(("name", name)) => Target::Name(name.into()),
        _ => return Err("bad target".into()),
    };
    let user = std::env::var_os("USERNS").map(PathBuf::from);
    let namespace = Namespace::open(&target, user.as_deref(), false).map_err(|e| e.to_string())?;
    let tap = namespace.attach(&interface, NOT_TO_STAY).map_err(|e| e.to_string())?;
    let o = tap.offloads;
    println!("{} vnet_header {} csum {} tso {} uso {}", tap.name, o.vnet_header, o.csum, o.tso, o.uso);
    if let Target::Pid(pid) = target {
        println!("inside: {}", inside(pid));
    } else if let Target::Path(path) = &target
        && let Some(pid) = path.iter().nth(2).and_then(|p| p.to_str()?.parse().ok())
    {
        println!("inside: {}", inside(pid));
    }
    let mut watch = namespace.into_watch();
    if !until_gone {
        println!("gone: {}", watch.is_gone());
        return Ok(0);
    }
    sandbox::enter(&sandbox::Params::default()).map_err(|e| e.to_string())?;
    println!("ready");
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    wait_until_gone(&mut watch);
    Ok(0)
}

fn inside(pid: i32) -> String {
    let args =
        ["-U", "-n", "--preserve-credentials", "-t", &pid.to_string(), "ip", "-4", "addr", "show", "dev", "eth0"];
    let out = Command::new("nsenter").args(args).output().unwrap();
    text(&out)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .split_once("inet")
        .map_or("-".into(), |t| format!("inet{}", t.1))
}

fn wait_until_gone(watch: &mut Watch) {
    while !watch.is_gone() {
        let timeout = watch.period().map_or(PollTimeout::NONE, |p| PollTimeout::try_from(p).unwrap());
        let mut fds: Vec<PollFd> = watch.fd().map(|f| PollFd::new(f, PollFlags::POLLIN)).into_iter().collect();
        poll(&mut fds, timeout).unwrap();
    }
}

fn template() -> Result<i32, String> {
    let network = host::read(&Select::default()).map_err(|e| e.to_string())?;
    let mut inside = interface(true);
    inside.name = network.interface_name().unwrap_or("tap0").to_string();
    (inside.addrs, inside.routes) = (Vec::new(), Vec::new());
    for t in [network.families.v4, network.families.v6].into_iter().flatten() {
        if let (Some(i), Some(addr), Some(gateway)) = (&t.interface, t.addr, t.gateway) {
            println!("template {} {} {addr} via {gateway}", i.name, i.mtu);
        }
        inside.addrs.extend(t.addrs);
        inside.routes.extend(t.routes);
    }
    println!("our link-local {}", network.our_link_local);
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    run_in(inside, |_| Ok(()))
}

fn daemon() -> Result<i32, String> {
    eprintln!("starting");
    let daemon = process::daemonize().map_err(|e| e.to_string())?;
    if let Ok(status) = std::env::var("FAIL") {
        eprintln!("no luck");
        return Ok(status.parse().unwrap());
    }
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(|e| e.to_string())?;
    let file = process::PidFile::create(Path::new(&std::env::var("PIDFILE").unwrap())).map_err(|e| e.to_string())?;
    sandbox::enter(&sandbox::Params::default()).map_err(|e| e.to_string())?;
    file.write(std::process::id()).map_err(|e| e.to_string())?;
    daemon.ready(&null).map_err(|e| e.to_string())?;
    std::thread::sleep(Duration::from_secs(10));
    Ok(0)
}

fn time() -> Result<i32, String> {
    let e = |e: ns::Error| e.to_string();
    let mut best = [Duration::MAX; 8];
    for _ in 0..10 {
        let mut since = Instant::now();
        let mut lap = |n: usize| {
            let took = since.elapsed();
            since = Instant::now();
            best[n] = best[n].min(took);
        };
        host::read(&Select::default()).map_err(|e| e.to_string())?;
        lap(0);
        let mut child = ns::spawn(&spawn_of(interface(true), command())).map_err(e)?;
        lap(1);
        let tap = child.tap().map_err(e)?;
        lap(2);
        child.go().map_err(e)?;
        wait(&mut child)?;
        lap(3);
        drop(tap);
        let spawn = spawn_of(interface(true), vec!["sleep".into(), "5".into()]);
        let mut guest =
            ns::spawn(&Spawn { interface: Interface { name: "tap9".into(), ..spawn.interface.clone() }, ..spawn })
                .map_err(e)?;
        let _keep = guest.tap().map_err(e)?;
        lap(4);
        let namespace = Namespace::open(&Target::Pid(guest.pid()), None, false).map_err(e)?;
        let tap = namespace
            .attach(
                &Interface { addrs: vec![interface(true).addrs[1]], routes: vec![], ..interface(true) },
                NOT_TO_STAY,
            )
            .map_err(e)?;
        lap(5);
        let mut broker = guest.broker(broker::confine).map_err(e)?;
        lap(6);
        broker.ready().map_err(e)?;
        lap(7);
        drop(broker);
        drop(tap);
        guest.signal(libc::SIGKILL).map_err(|e| e.to_string())?;
        wait(&mut guest)?;
    }
    let names = [
        "host read",
        "spawn: clone",
        "spawn: set up",
        "spawn to exit of true",
        "(another)",
        "attach",
        "broker: clone",
        "broker: until ready",
    ];
    for (name, took) in names.iter().zip(best) {
        println!("{name}: {:.2} ms", took.as_secs_f64() * 1e3);
    }
    let since = Instant::now();
    sandbox::enter(&sandbox::Params::default()).map_err(|e| e.to_string())?;
    println!("sandbox: {:.2} ms", since.elapsed().as_secs_f64() * 1e3);
    Ok(0)
}
