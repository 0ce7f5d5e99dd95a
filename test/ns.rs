//! Namespaces for real, as an ordinary user: what is set up inside, what is left when something dies.
//!
//! The code under test wants a process with one thread, which the standard harness does not give. So this binary has a
//! harness of its own, and each test starts it once more, with a scenario, and looks at what that prints and how it ends.
//! Started by root, it becomes a user without privileges first.

#[path = "ns/broker.rs"]
mod broker;
#[path = "ns/scenarios.rs"]
mod scenarios;

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use broker::{
    broker_goes_with_us, broker_holds_few_things, broker_keeps_sockets_ready, broker_leaves_the_terminals_keys_to_us,
    broker_lets_go_of_its_callers_pipes, broker_sockets_belong_to_the_namespace, broker_sockets_fill_the_last_places,
    broker_that_cannot_enter_says_why, broker_that_died_is_an_error,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn main() {
    if let Ok(scenario) = std::env::var("SCENARIO") {
        scenarios::second_process(&scenario);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| args.iter().filter(|a| !a.starts_with('-')).all(|a| name.contains(a.as_str()));
    let chosen = TESTS.iter().filter(|(name, _)| wanted(name));
    if args.iter().any(|a| a == "--list") {
        chosen.for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let outcome = std::panic::catch_unwind(test);
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed.extend(outcome.is_err().then_some(*name));
    }
    println!("{} failed {failed:?}", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}

macro_rules! tests {
    ($($name:ident),+ $(,)?) => { const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name),)+]; };
}

tests!(
    everything_is_set_up_inside,
    exit_statuses_are_those_of_a_shell,
    signals_reach_the_command,
    kill_9_leaves_nothing,
    a_sandboxed_parent_keeps_its_child,
    the_sandbox_leaves_nothing_to_find,
    attach_by_pid_and_by_path,
    attach_by_path_and_explicit_user_namespace,
    root_can_do_it_too,
    attach_by_name_until_the_name_is_deleted,
    attach_to_an_existing_tap_leaves_it_alone,
    an_existing_tap_must_have_as_many_queues_as_asked_for,
    failures_say_what_to_do,
    the_template_is_the_host_as_it_is,
    a_daemon_lets_go_when_ready,
    broker_sockets_belong_to_the_namespace,
    broker_keeps_sockets_ready,
    broker_sockets_fill_the_last_places,
    broker_that_died_is_an_error,
    broker_that_cannot_enter_says_why,
    broker_holds_few_things,
    broker_lets_go_of_its_callers_pipes,
    broker_goes_with_us,
    broker_leaves_the_terminals_keys_to_us,
    times,
);

// ---- tests

fn everything_is_set_up_inside() {
    let out = text(&run(
        "ip -o addr; ip route; ip -6 route; cat /proc/sys/net/ipv4/ping_group_range; hostname; cat /etc/resolv.conf; \
         echo pid $$ uid $(id -u); echo fds $(ls /proc/self/fd | wc -l); \
         ip -o link show eth0; cat /proc/sys/net/ipv6/conf/eth0/accept_ra; grep -E 'Sig(Blk|Ign)|CapEff' /proc/self/status",
    ));
    for part in [
        "lo    inet 127.0.0.1/8",
        "lo    inet6 ::1/128",
        "eth0    inet 192.0.2.7/24 brd 192.0.2.255 scope global eth0",
        "inet6 2001:db8::7/64 scope global nodad",
        "inet6 fe80::",
        "default via 192.0.2.1 dev eth0",
        "192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.7",
        "default via fe80::1 dev eth0",
        "\n0\t0\n",
        "\nspelt-",
        "nameserver 192.0.2.53\n",
        "pid 2 uid 0",
        // ls has the directory open itself.
        "fds 4",
        "mtu 65520",
        "qlen 16384",
        "SigBlk:\t0000000000000000",
        "CapEff:\t000001ffffffffff",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    assert!(!out.contains("tentative"), "{out}");
    assert_eq!(out.matches("192.0.2.0/24 dev").count(), 1, "{out}");
    assert_eq!(out.lines().find(|l| l.len() == 1), Some("0"), "accept_ra: {out}");
    // What whoever started the tests ignores is ignored inside, but for SIGPIPE, which is our own doing. (glibc's posix_spawn
    // leaves its own signal 32 ignored.)
    let ignored = |text: &str| {
        let set = text.lines().find_map(|l| u64::from_str_radix(l.strip_prefix("SigIgn:\t")?, 16).ok());
        set.map(|set| set & 0x7fff_ffff)
    };
    let own = ignored(&std::fs::read_to_string("/proc/self/status").unwrap());
    assert_eq!(ignored(&out), own.map(|set| set & !(1 << (libc::SIGPIPE - 1))), "{out}");
}

fn exit_statuses_are_those_of_a_shell() {
    for (command, status) in
        [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("sleep 0.01 & exec sh -c 'exit 5'", 5)]
    {
        assert_eq!(run(command).status.code(), Some(status), "{command}");
    }
    // The command is then an ordinary process of the host's numbering.
    let out = finish(scenario("run").env("NO_PID_NAMESPACE", "").env("COMMAND", "[ $$ -gt 2 ] && exit 8"));
    assert_eq!(out.status.code(), Some(8), "{}", stderr(&out));
    for (program, status, message) in [
        ("no-such-program", 127, "command `no-such-program` not found in PATH"),
        ("/nonexistent/x", 127, "command `/nonexistent/x` not found"),
        ("/etc/passwd", 126, "cannot run `/etc/passwd`: it is not executable"),
    ] {
        let out = scenario("run").env("PROGRAM", program).output().unwrap();
        assert_eq!(out.status.code(), Some(status));
        assert!(stderr(&out).contains(message), "{}", stderr(&out));
    }
}

fn signals_reach_the_command() {
    let out = finish(scenario("signal").env("COMMAND", "trap 'exit 3' TERM; while :; do sleep 0.1; done"));
    assert_eq!(out.status.code(), Some(3), "{}", stderr(&out));
}

fn kill_9_leaves_nothing() {
    for sandboxed in ["run", "sandboxed"] {
        // A duration nobody else sleeps.
        let mark = format!("98765.{}{sandboxed}", std::process::id()).replace(char::is_alphabetic, "");
        let command = format!("setsid sleep {mark} & echo ready; sleep {mark}");
        let mut child = Killed(scenario(sandboxed).env("COMMAND", &command).stdout(Stdio::piped()).spawn().unwrap());
        wait_for("ready", child.0.stdout.as_mut().unwrap());
        assert!(within(Duration::from_secs(2), || sleepers(&mark) == 2));
        child.kill();
        assert!(within(Duration::from_secs(2), || sleepers(&mark) == 0), "{} left", sleepers(&mark));
    }
}

fn a_sandboxed_parent_keeps_its_child() {
    let out = finish(scenario("sandboxed").env("COMMAND", "sleep 0.05; exit 9"));
    assert_eq!(out.status.code(), Some(9), "{}", stderr(&out));
    let out = finish(scenario("sandboxed-signal").env("COMMAND", "trap 'exit 4' TERM; while :; do sleep 0.1; done"));
    assert_eq!(out.status.code(), Some(4), "{}", stderr(&out));
}

fn the_sandbox_leaves_nothing_to_find() {
    let out = text(&finish(&mut scenario("look-around")));
    for part in
        ["files: 0", "passwd: No such file", "CapEff: 0 CapPrm: 0 CapBnd: 0 NoNewPrivs: 1", "user: same", "tap: "]
    {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
}

fn attach_by_pid_and_by_path() {
    let mut guest = Guest::start();
    for target in [format!("pid:{}", guest.pid), format!("path:/proc/{}/ns/net", guest.pid)] {
        let out = text(&finish(scenario("attach").env("TARGET", &target)));
        assert!(out.contains("eth0 vnet_header true csum true tso true uso true"), "{out}");
        assert!(out.contains("inside: inet 192.0.2.7/24") && out.contains("gone: false"), "{out}");
    }
    let mut c = scenario("attach-until-gone");
    let c = c.env("TARGET", format!("pid:{}", guest.pid)).stdout(Stdio::piped());
    let mut watcher = Killed(c.spawn().unwrap());
    wait_for("ready", watcher.0.stdout.as_mut().unwrap());
    guest.process.kill();
    let since = Instant::now();
    assert_eq!(watcher.0.wait().unwrap().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

/// As RootlessKit does it.
fn attach_by_path_and_explicit_user_namespace() {
    let guest = Guest::start();
    let (net, user) = (format!("path:/proc/{}/ns/net", guest.pid), format!("/proc/{}/ns/user", guest.pid));
    let out = text(&finish(scenario("attach").env("TARGET", &net).env("USERNS", &user)));
    assert!(out.contains("inside: inet 192.0.2.7/24"), "{out}");
    let out = text(&finish(scenario("attach").env("TARGET", &net).env("USERNS", "/proc/self/ns/user")));
    assert!(out.contains("cannot join the network namespace"), "{out}");
}

/// Root, here of a user namespace, needs no other rights than anybody.
fn root_can_do_it_too() {
    let mut c = unprivileged("unshare");
    c.args(["-Ur", "-n"]).arg(binary()).env("SCENARIO", "sandboxed").env("COMMAND", "ip -4 -o addr; exit 6");
    let out = finish(&mut c);
    assert!(text(&out).contains("inet 192.0.2.7/24"), "{}", text(&out));
    assert_eq!(out.status.code(), Some(6));
}

/// As rootless Podman does it: the whole happens inside a user namespace, the namespace has only a name there.
fn attach_by_name_until_the_name_is_deleted() {
    for name in ["name:box", "path:/run/netns/box", "path:/run/link"] {
        let script = r#"
            mount -t tmpfs tmpfs /run && ip netns add box && ln -s netns/box /run/link || exit 99
            "$BINARY" > /run/out & pid=$!
            for i in $(seq 200); do grep -q ready /run/out && break; sleep 0.01; done
            cat /run/out; ip -n box -o -4 addr show eth0 2>&1
            ip netns del box
            for i in $(seq 200); do [ -e /proc/$pid ] || break; sleep 0.01; done
            wait $pid; echo "status $? after ${i}0 ms""#;
        let mut c = unprivileged("unshare");
        c.args(["-Ur", "-m", "-n", "sh", "-c", script]).env("SCENARIO", "attach-until-gone").env("TARGET", name);
        let out = text(&finish(&mut c));
        assert!(out.contains("inet 192.0.2.7/24"), "{out}");
        let after = out.split("status 0 after ").nth(1).and_then(|t| t.split(" ms").next()?.parse::<u32>().ok());
        assert!(after.is_some_and(|ms| ms < 2000), "{out}");
    }
}

/// As RootlessKit 2.0 does it: the tap exists, and is configured by others.
fn attach_to_an_existing_tap_leaves_it_alone() {
    let mut guest = Guest::start();
    guest.enter("ip tuntap add name tap0 mode tap");
    let out = text(&finish(scenario("attach-bare").env("TARGET", format!("pid:{}", guest.pid))));
    assert!(out.contains("tap0 vnet_header true"), "{out}");
    let inside = guest.enter("ip -o addr; ip -o link show tap0");
    assert!(inside.contains("lo    inet 127.0.0.1/8") && inside.contains("state DOWN"), "{inside}");
    guest.process.kill();
}

fn an_existing_tap_must_have_as_many_queues_as_asked_for() {
    let attach = |guest: &Guest, queues: &str| {
        text(&finish(scenario("attach-bare").env("TARGET", format!("pid:{}", guest.pid)).env("QUEUES", queues)))
    };
    let mut one = Guest::start();
    one.enter("ip tuntap add name tap0 mode tap");
    let out = attach(&one, "2");
    assert!(out.contains("was made for one queue, and several were asked for"), "{out}");
    assert!(attach(&one, "1").contains("tap0 vnet_header true"));
    let mut several = Guest::start();
    several.enter("ip tuntap add name tap0 mode tap multi_queue && tc qdisc add dev tap0 root handle 7: pfifo");
    let out = attach(&several, "1");
    assert!(out.contains("was made for several queues (`multi_queue`), and one was asked for"), "{out}");
    let out = attach(&several, "8");
    assert!(out.contains("tap0 vnet_header true"), "{out}");
    let inside = several.enter("tc qdisc show dev tap0");
    assert!(inside.contains("pfifo 7:"), "{inside}");
    let mut other = Guest::start();
    other.enter("ip link add tap0 type veth peer name tap1");
    let out = attach(&other, "2");
    assert!(out.contains("that is no tap exists"), "{out}");
}

fn failures_say_what_to_do() {
    for (target, message) in [
        ("pid:2147483647", "there is no process 2147483647"),
        ("name:nowhere", "cannot open the network namespace `nowhere` at `/run/netns/nowhere`"),
        ("path:/etc/passwd", "`/etc/passwd` is not a network namespace"),
        ("path:/proc/self/ns/user", "`/proc/self/ns/user` is not a network namespace"),
        ("path:/proc/self/ns/net", "is the one this program itself runs in"),
    ] {
        let out = finish(scenario("attach").env("TARGET", target));
        assert_eq!(out.status.code(), Some(1), "{target}");
        assert!(stderr(&out).contains(message), "{target}: {}", stderr(&out));
    }
}

fn the_template_is_the_host_as_it_is() {
    let script = r#"
        ip link add up0 type veth peer name up1 && ip link set up1 up && ip link set lo up
        ip link set up0 mtu 1400 up
        ip addr add 198.51.100.9/26 dev up0 && ip addr add 203.0.113.4/32 dev up0
        ip addr add 2001:db8:5::9/64 dev up0 nodad && ip addr add fe80::9/64 dev up0 nodad
        ip route add default via 198.51.100.1 metric 100 && ip route add 10.9.0.0/16 via 198.51.100.2 mtu 1300
        ip route add 203.0.113.200 dev up0 scope link && ip route add 10.10.0.0/16 via 203.0.113.200
        ip route add 10.11.0.0/16 nexthop via 198.51.100.3 weight 1 nexthop via 198.51.100.4 weight 7
        ip -6 route add default via fe80::77 dev up0
        exec "$BINARY""#;
    let mut c = unprivileged("unshare");
    c.args(["-Urn", "sh", "-c", script])
        .env("SCENARIO", "template")
        .env("COMMAND", "ip -o addr; ip route; ip -6 route");
    let out = text(&finish(&mut c));
    for part in [
        "template up0 1400 198.51.100.9/26 via 198.51.100.1",
        "template up0 1400 2001:db8:5::9/64 via fe80::77",
        "our link-local fe80::77",
        "up0    inet 198.51.100.9/26",
        "up0    inet 203.0.113.4/32",
        "up0    inet6 2001:db8:5::9/64",
        "default via 198.51.100.1 dev up0 proto static metric 100",
        "10.9.0.0/16 via 198.51.100.2 dev up0 proto static mtu 1300",
        "10.10.0.0/16 via 203.0.113.200",
        "nexthop via 198.51.100.4 dev up0 weight 7",
        "203.0.113.200 dev up0",
        "default via fe80::77 dev up0",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    for once in ["198.51.100.0/26 dev", "2001:db8:5::/64 dev"] {
        assert_eq!(out.matches(once).count(), 1, "{once} in {out}");
    }
}

fn a_daemon_lets_go_when_ready() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let file = dir.path().join("pid");
    // `output` returns when the last holder of the pipes has closed them.
    let out = finish(scenario("daemon").env("PIDFILE", &file));
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    assert_eq!(stderr(&out), "starting\n");
    let pid = std::fs::read_to_string(&file).unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.strip_suffix('\n').unwrap().parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let out = finish(scenario("daemon").env("FAIL", "7"));
    assert_eq!((out.status.code(), stderr(&out).as_str()), (Some(7), "starting\nno luck\n"));
}

fn times() {
    let out = text(&finish(&mut scenario("time")));
    println!("{out}");
    assert!(out.contains("spawn to exit"), "{out}");
}

// ---- starting it

/// A copy of this binary that an ordinary user may run, whatever the permissions of the build directory.
fn binary() -> &'static Path {
    static COPY: std::sync::OnceLock<(tempfile::TempDir, PathBuf)> = std::sync::OnceLock::new();
    &COPY
        .get_or_init(|| {
            use std::os::unix::fs::PermissionsExt;
            let dir = tempfile::tempdir().unwrap();
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            let copy = dir.path().join("ns");
            std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
            (dir, copy)
        })
        .1
}

fn unprivileged(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut c = if nix::unistd::geteuid().is_root() {
        let mut c = Command::new("setpriv");
        c.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).arg(program);
        c
    } else {
        Command::new(program)
    };
    c.env("BINARY", binary()).stdin(Stdio::null()).current_dir("/");
    c
}

fn scenario(name: &str) -> Command {
    let mut c = unprivileged(binary());
    c.args(["second_process", "--exact", "--ignored", "--nocapture", "--test-threads=1", "--quiet"])
        .env("SCENARIO", name);
    c
}

fn run(command: &str) -> Output {
    finish(scenario("run").env("COMMAND", command))
}

/// Bounded: what hangs is killed.
fn finish(c: &mut Command) -> Output {
    let child = c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pidfd = spelt::sys::pidfd::open(child.id() as i32).unwrap();
    let guard = std::thread::spawn(move || {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(Duration::from_secs(20)).unwrap()) == Ok(0) {
            let _ = spelt::sys::pidfd::send_signal(&pidfd, libc::SIGKILL);
        }
    });
    let out = child.wait_with_output().unwrap();
    guard.join().unwrap();
    assert!(out.status.signal() != Some(libc::SIGKILL), "did not end: {}", stderr(&out));
    out
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), stderr(out))
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn wait_for(word: &str, from: &mut impl Read) {
    let (mut seen, mut byte) = (String::new(), [0]);
    while !seen.ends_with(word) {
        assert_eq!(from.read(&mut byte).unwrap(), 1, "ended after {seen:?}");
        seen.push(char::from(byte[0]));
    }
}

fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    while !done() {
        if since.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Processes `sleep MARK`, anywhere.
fn sleepers(mark: &str) -> usize {
    let wanted = format!("sleep\0{mark}\0");
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|e| Some(e.ok()?.path().join("cmdline")));
    all.filter(|p| std::fs::read(p).is_ok_and(|c| c == wanted.as_bytes())).count()
}

/// A namespace made by somebody else: user and network namespace of an ordinary user's process.
struct Guest {
    process: Killed,
    pid: u32,
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Killed {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Guest {
    fn start() -> Guest {
        let mut c = unprivileged("unshare");
        c.args(["-Urn", "sh", "-c", "echo ready; exec sleep 60"]).stdout(Stdio::piped());
        let mut process = Killed(c.spawn().unwrap());
        wait_for("ready", process.0.stdout.as_mut().unwrap());
        let pid = process.0.id();
        Guest { process, pid }
    }

    fn enter(&mut self, command: &str) -> String {
        let pid = self.pid.to_string();
        let mut c = unprivileged("nsenter");
        c.args(["-U", "-n", "--preserve-credentials", "-t", &pid, "sh", "-c", command]);
        text(&finish(&mut c))
    }
}
