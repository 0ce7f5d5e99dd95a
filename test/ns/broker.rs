//! The process that makes sockets in the guest's namespace.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spelt::base::{Addr, Endpoint, Family};
use spelt::ns::{self, Broker, Namespace, Target};
use spelt::sandbox;
use spelt::sys::sockets::{Bind, Device, Here, Sockets, Transport, Wanted};

use super::scenarios::{command, interface, spawn_of, wait};
use super::{Guest, Killed, binary, finish, stderr, text, unprivileged, wait_for, within};

// ---- tests

pub fn broker_sockets_belong_to_the_namespace() {
    for guest in ["broker", "broker-attached"] {
        let mut held = None;
        let mut c = scenario(guest);
        if guest == "broker-attached" {
            let guest = held.insert(Guest::start());
            guest.enter("ip link set lo up");
            c.env("TARGET", guest.pid.to_string());
        }
        let out = text(&finish(&mut c));
        for part in [
            "listening on 127.0.0.1:80 and [::1]:80",
            "again: Address already in use (os error 98)",
            "nowhere: Cannot assign requested address (os error 99)",
            "tcp v4: served inside, refused here",
            "tcp v6: served inside, refused here",
            "udp: answered",
            "diag: listed 2 listeners",
        ] {
            assert!(out.contains(part), "{guest}: no {part:?} in\n{out}");
        }
    }
}

pub fn broker_keeps_sockets_ready() {
    let out = text(&finish(&mut scenario("broker-pool")));
    assert!(out.contains("stopped broker: 31 more sockets, then"), "{out}");
    assert!(out.contains("gave up after 2 s: BrokenPipe"), "{out}");
    assert!(out.contains("then at once: BrokenPipe"), "{out}");
    assert_eq!(out.matches("ERROR").count(), 1, "one line about it: {out}");
}

pub fn broker_sockets_fill_the_last_places() {
    let out = text(&finish(&mut scenario("broker-full")));
    let turns: Vec<&str> = out.lines().filter_map(|l| l.strip_prefix("sockets: ")).collect();
    assert!(turns.len() == 3 && turns.iter().all(|t| *t == turns[0] && *t != "0, then EMFILE"), "{out}");
    assert!(turns[0].ends_with(", then EMFILE") && !out.contains("ERROR"), "{out}");
}

pub fn broker_that_died_is_an_error() {
    let out = text(&finish(&mut scenario("broker-killed")));
    assert!(
        out.contains("at once: BrokenPipe: the process that makes sockets in the guest's namespace is gone"),
        "{out}"
    );
    assert!(out.contains("no zombie"), "{out}");
    assert_eq!(out.matches("ERROR").count(), 1, "one line about it: {out}");
}

pub fn broker_that_cannot_enter_says_why() {
    let out = finish(scenario("broker-refused").env("TARGET", "here"));
    assert!(stderr(&out).contains("no luck"), "{}", text(&out));
    let out = finish(scenario("broker-refused").env("TARGET", "elsewhere"));
    assert!(stderr(&out).contains("cannot join the network namespace"), "{}", text(&out));
}

pub fn broker_holds_few_things() {
    let mut c = unprivileged("unshare");
    c.arg("-Ur").arg(binary()).env("SCENARIO", "broker-look").env("COMMAND", "echo inside: $(cat /proc/[0-9]*/comm)");
    let out = text(&finish(&mut c));
    for part in [
        "CapEff: 0000000000000400",
        "CapPrm: 0000000000000400",
        "CapInh: 0000000000000000",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
        "Threads: 1",
        // Standard streams and the channel.
        "files: 0 descriptors: 4",
        "apart: ipc mnt net user uts",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    let seen = out.lines().find_map(|l| l.strip_prefix("inside: ")).unwrap_or("nothing");
    assert!(seen.split(' ').all(|name| ["spelt-init", "sh", "cat"].contains(&name)), "{seen}");
}

pub fn broker_lets_go_of_its_callers_pipes() {
    let guest = Guest::start();
    let mut c = scenario("broker-daemon");
    c.env("TARGET", guest.pid.to_string());
    let mut child = Killed(c.stdout(Stdio::piped()).spawn().unwrap());
    let mut out = child.0.stdout.take().unwrap();
    let since = Instant::now();
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "started\n");
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

pub fn broker_goes_with_us() {
    for (how, stopped) in [("kill", false), ("kill", true), ("end", false)] {
        let mut c = scenario(if how == "kill" { "broker-wait" } else { "broker-end" });
        let mut main = Killed(c.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap());
        let broker = announced_pid(&mut main);
        if stopped {
            kill(broker, Signal::SIGSTOP).unwrap();
        }
        match how {
            "kill" => main.kill(),
            _ => drop(main.0.stdin.take()),
        }
        assert!(within(Duration::from_secs(2), || is_gone(broker)), "{how} {stopped}: broker {broker} stays");
    }
}

pub fn broker_leaves_the_terminals_keys_to_us() {
    let mut c = scenario("broker-wait");
    let mut main = Killed(c.process_group(0).stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap());
    let broker = announced_pid(&mut main);
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGTSTP] {
        kill(broker, signal).unwrap();
    }
    main.0.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    wait_for("still served", main.0.stdout.as_mut().unwrap());
}

/// With a command that does not end by itself.
fn scenario(name: &str) -> Command {
    let mut c = super::scenario(name);
    c.env("COMMAND", "exec sleep 20");
    c
}

fn announced_pid(main: &mut Killed) -> Pid {
    let out = main.0.stdout.as_mut().unwrap();
    wait_for("broker ", out);
    let (mut digits, mut byte) = (String::new(), [0]);
    while out.read(&mut byte).unwrap() == 1 && byte[0].is_ascii_digit() {
        digits.push(char::from(byte[0]));
    }
    Pid::from_raw(digits.parse().unwrap())
}

fn is_gone(pid: Pid) -> bool {
    // Whoever inherits it may take its time to reap it.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z ") || s.contains(") X "))
}

// ---- what the second process does

pub fn second_process(name: &str) -> Option<Result<i32, String>> {
    let _ = log::set_logger(&Stderr).map(|()| log::set_max_level(log::LevelFilter::Info));
    Some(match name {
        "broker" => spawned(|broker, _| make_all(broker)),
        "broker-attached" => attached(make_all),
        "broker-pool" => spawned(use_pool),
        "broker-full" => spawned(fill),
        "broker-killed" => spawned(survive),
        "broker-refused" => refused(),
        "broker-look" => spawned(look),
        "broker-daemon" => daemon(),
        "broker-wait" => spawned(|broker, _| {
            println!("broker {}\n", broker.pid());
            wait_for("x", &mut std::io::stdin());
            broker.make(&plain(Transport::Tcp, Family::V4)).map_err(|e| e.to_string())?;
            println!("still served");
            Ok(())
        }),
        "broker-end" => spawned(|broker, _| {
            println!("broker {}\n", broker.pid());
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            Ok(())
        }),
        _ => return None,
    })
}

struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, r: &log::Record<'_>) {
        eprintln!("{} {}", r.level(), r.args());
    }
    fn flush(&self) {}
}

pub fn confine() -> Result<(), sandbox::Error> {
    // It is inside by now, together with others who may have privileges there.
    assert!(!nix::sys::prctl::get_dumpable().unwrap(), "can be traced");
    sandbox::enter(&sandbox::Params { bind_low_ports: true, ends_with_parent: true, ..sandbox::Params::default() })
}

fn spawned(then: impl FnOnce(&mut Broker, &mut ns::Child) -> Result<(), String>) -> Result<i32, String> {
    let e = |e: ns::Error| e.to_string();
    let mut child = ns::spawn(&spawn_of(interface(true), command())).map_err(e)?;
    let tap = child.tap().map_err(e)?;
    let mut broker = child.broker(confine).map_err(e)?;
    broker.ready().map_err(e)?;
    child.go().map_err(e)?;
    then(&mut broker, &mut child)?;
    drop(broker);
    drop(tap);
    let _ = child.signal(libc::SIGKILL);
    Ok(0)
}

fn attached(then: impl FnOnce(&mut Broker) -> Result<(), String>) -> Result<i32, String> {
    let e = |e: ns::Error| e.to_string();
    let pid = std::env::var("TARGET").map_err(|e| e.to_string())?.parse().map_err(|_| "no pid")?;
    let namespace = Namespace::open(&Target::Pid(pid), None, false).map_err(e)?;
    let mut broker = namespace.broker(confine).map_err(e)?;
    then(&mut broker)?;
    Ok(0)
}

fn plain(transport: Transport, family: Family) -> Wanted {
    Wanted { transport, family, bind: None }
}

fn loopback(family: Family, port: u16) -> Endpoint {
    Endpoint::new(
        if family == Family::V4 { Addr::v4([127, 0, 0, 1]) } else { "::1".parse::<std::net::IpAddr>().unwrap().into() },
        port,
    )
}

fn listening(family: Family, port: u16) -> Wanted {
    let bind = Bind { backlog: Some(5), only_v6: true, ..Bind::to(loopback(family, port)) };
    Wanted { bind: Some(bind), ..plain(Transport::Tcp, family) }
}

fn make_all(broker: &mut Broker) -> Result<(), String> {
    sandbox::enter(&sandbox::Params::default()).map_err(|e| e.to_string())?;
    let e = |e: std::io::Error| e.to_string();
    let servers = [Family::V4, Family::V6].map(|f| broker.make(&listening(f, 80)));
    let [v4, v6] = servers;
    let servers = [v4.map_err(e)?, v6.map_err(e)?];
    let addrs = servers.each_ref().map(|s| s.local_addr().unwrap().as_socket().unwrap());
    println!("listening on {} and {}", addrs[0], addrs[1]);
    println!("again: {}", broker.make(&listening(Family::V4, 80)).unwrap_err());
    let strange = Bind::to(Endpoint::new(Addr::v4([198, 51, 100, 77]), 0));
    let strange = Wanted { bind: Some(strange), ..plain(Transport::Udp, Family::V4) };
    println!("nowhere: {}", broker.make(&strange).unwrap_err());
    for (family, server, addr) in [("v4", &servers[0], addrs[0]), ("v6", &servers[1], addrs[1])] {
        let of = if family == "v4" { Family::V4 } else { Family::V6 };
        let client = broker.make(&plain(Transport::Tcp, of)).map_err(e)?;
        assert!(client.nonblocking().unwrap() && is_cloexec(&client));
        client.set_nonblocking(false).map_err(e)?;
        client.connect(&addr.into()).map_err(e)?;
        server.set_nonblocking(false).map_err(e)?;
        let (mut near, _) = server.accept().map_err(e)?;
        near.write_all(b"hello").map_err(e)?;
        let mut room = [0; 5];
        (&client).read_exact(&mut room).map_err(e)?;
        // Whatever listens on the host's port 80, it says no hello.
        let here = match TcpStream::connect_timeout(&addr, Duration::from_secs(1)) {
            Err(_) => "refused here",
            Ok(mut s) => {
                s.set_read_timeout(Some(Duration::from_millis(100))).map_err(e)?;
                if s.read(&mut room).is_ok_and(|n| n > 0) { "served here" } else { "refused here" }
            }
        };
        println!("tcp {family}: served inside, {here}");
    }
    let bind = Bind { device: Some(Device::LO), ..Bind::to(loopback(Family::V4, 0)) };
    let server = broker.make(&Wanted { bind: Some(bind), ..plain(Transport::Udp, Family::V4) }).map_err(e)?;
    let client = broker.make(&plain(Transport::Udp, Family::V4)).map_err(e)?;
    client.send_to(b"ask", &server.local_addr().map_err(e)?).map_err(e)?;
    println!("udp: {}", if (&server).read(&mut [0; 9]).map_err(e)? == 3 { "answered" } else { "not answered" });
    println!("diag: listed {} listeners", listeners(broker)?);
    Ok(())
}

fn is_cloexec(fd: impl AsFd) -> bool {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).is_ok_and(|flags| flags & libc::FD_CLOEXEC != 0)
}

/// TCP over IPv4 and IPv6 in state LISTEN, by inet_diag (linux/inet_diag.h).
fn listeners(broker: &mut Broker) -> Result<usize, String> {
    let e = |e: std::io::Error| e.to_string();
    let socket = socket2::Socket::from(broker.make_diag().map_err(e)?);
    socket.set_read_timeout(Some(Duration::from_secs(2))).map_err(e)?;
    let mut found = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut ask = Vec::new();
        ask.extend(72u32.to_ne_bytes());
        ask.extend(20u16.to_ne_bytes()); // SOCK_DIAG_BY_FAMILY
        ask.extend(0x301u16.to_ne_bytes()); // NLM_F_REQUEST | NLM_F_DUMP
        ask.extend([0; 8]);
        ask.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
        ask.extend((1u32 << 10).to_ne_bytes());
        ask.extend([0; 48]);
        (&socket).write_all(&ask).map_err(e)?;
        let mut done = false;
        while !done {
            let mut room = [0; 32768];
            let len = (&socket).read(&mut room).map_err(e)?;
            let mut rest = &room[..len];
            while rest.len() >= 16 {
                let size = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
                match u16::from_ne_bytes(rest[4..6].try_into().unwrap()) {
                    20 => found += 1,
                    _ => done = true,
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
    Ok(found)
}

fn use_pool(broker: &mut Broker, _: &mut ns::Child) -> Result<(), String> {
    let tcp = plain(Transport::Tcp, Family::V4);
    let first = broker.make(&tcp).map_err(|e| e.to_string())?;
    kill(Pid::from_raw(broker.pid()), Signal::SIGSTOP).map_err(|e| e.to_string())?;
    let mut more = vec![first];
    let since = Instant::now();
    let e = loop {
        match broker.make(&tcp) {
            Ok(s) => more.push(s),
            Err(e) => break e,
        }
    };
    println!("stopped broker: {} more sockets, then", more.len() - 1);
    println!("gave up after {} s: {:?}", since.elapsed().as_secs(), e.kind());
    let since = Instant::now();
    let e = broker.make(&plain(Transport::Udp, Family::V6)).unwrap_err();
    assert!(since.elapsed() < Duration::from_millis(100));
    println!("then at once: {:?}", e.kind());
    // In our own namespace all the same.
    Here.make(&tcp).map(|_| ()).map_err(|e| e.to_string())
}

/// With fewer places left in our table than are fetched at once.
fn fill(broker: &mut Broker, _: &mut ns::Child) -> Result<(), String> {
    let e = |e: nix::Error| e.to_string();
    let free = nix::fcntl::fcntl(std::io::stdin(), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3)).map_err(e)?;
    nix::unistd::close(free).map_err(e)?;
    let limit = free as u64 + 12;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).map_err(e)?;
    for _ in 0..3 {
        let mut all = Vec::new();
        let e = loop {
            match broker.make(&plain(Transport::Tcp, Family::V4)) {
                Ok(socket) => all.push(socket),
                Err(e) => break e,
            }
        };
        let why = if e.raw_os_error() == Some(libc::EMFILE) { "EMFILE".into() } else { e.to_string() };
        println!("sockets: {}, then {why}", all.len());
    }
    Ok(())
}

fn survive(broker: &mut Broker, _: &mut ns::Child) -> Result<(), String> {
    let pid = broker.pid();
    kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|e| e.to_string())?;
    let since = Instant::now();
    for _ in 0..3 {
        let e = broker.make(&listening(Family::V4, 99)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::BrokenPipe);
        assert!(since.elapsed() < Duration::from_secs(1));
        println!("at once: {:?}: {e}", e.kind());
    }
    println!("{}", if std::path::Path::new(&format!("/proc/{pid}")).exists() { "a zombie" } else { "no zombie" });
    Ok(())
}

fn refused() -> Result<i32, String> {
    let e = |e: ns::Error| e.to_string();
    let mut child = ns::spawn(&spawn_of(interface(true), vec!["true".into()])).map_err(e)?;
    let _tap = child.tap().map_err(e)?;
    if std::env::var("TARGET").is_ok_and(|t| t == "here") {
        child.broker(|| Err("no luck".to_owned())).map_err(e)?.ready().map_err(e)?;
    } else {
        let namespace = Namespace::open(&Target::Pid(child.pid()), None, true).map_err(e)?;
        namespace.broker(confine).map_err(e)?.ready().map_err(e)?;
    }
    Ok(0)
}

/// For root of a user namespace, who may look at an undumpable process made there.
fn look(broker: &mut Broker, child: &mut ns::Child) -> Result<(), String> {
    let proc = PathBuf::from(format!("/proc/{}", broker.pid()));
    let status = std::fs::read_to_string(proc.join("status")).map_err(|e| e.to_string())?;
    for line in status.lines().filter(|l| ["Cap", "NoNewPrivs", "Threads"].iter().any(|p| l.starts_with(p))) {
        println!("{}", line.replace('\t', " "));
    }
    let count = |name: &str| Ok(std::fs::read_dir(proc.join(name)).map_err(|e: std::io::Error| e.to_string())?.count());
    let (files, descriptors): (Result<usize, String>, Result<usize, String>) = (count("root"), count("fd"));
    println!("files: {} descriptors: {}", files?, descriptors?);
    let other = |name: &&str| {
        let of = |proc: &Path| std::fs::read_link(proc.join("ns").join(name)).unwrap();
        of(&proc) != of(Path::new("/proc/self"))
    };
    let others: Vec<_> = ["ipc", "mnt", "net", "pid", "user", "uts"].into_iter().filter(other).collect();
    println!("apart: {}", others.join(" "));
    wait(child).map(|_| ())
}

fn daemon() -> Result<i32, String> {
    let daemon = spelt::sys::process::daemonize().map_err(|e| e.to_string())?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(|e| e.to_string())?;
    attached(|broker| {
        broker.ready().map_err(|e| e.to_string())?;
        println!("started");
        std::io::stdout().flush().map_err(|e| e.to_string())?;
        daemon.ready(&null).map_err(|e| e.to_string())?;
        std::thread::sleep(Duration::from_secs(5));
        Ok(())
    })
}
