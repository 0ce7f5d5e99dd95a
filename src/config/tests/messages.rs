//! What a person reads: refusals, help, version.

use super::*;

/// Options before a valid process id, and the whole message.
#[test]
fn values_that_are_refused() {
    let cases = [
        ("-m 70000", "Invalid MTU '70000' for option '-m': give a number from 68 to 65521, or 0 to advertise none"),
        ("--mtu=x", "Invalid MTU 'x' for option '--mtu': give a number from 68 to 65521, or 0 to advertise none"),
        (
            "-a 127.0.0.1",
            "Invalid address '127.0.0.1' for option '-a': a loopback address means another host to the guest: give another",
        ),
        (
            "-a 0.0.0.0",
            "Invalid address '0.0.0.0' for option '-a': give an address of one host, not unspecified, multicast or broadcast",
        ),
        (
            "-a 10.0.0.1/33",
            "Invalid address '10.0.0.1/33' for option '-a': give a prefix length from 0 to 32 after '/'",
        ),
        (
            "-n 33",
            "Invalid netmask '33' for option '-n': give a number of bits from 0 to 32, or a mask such as 255.255.255.0",
        ),
        (
            "-g 255.255.255.255",
            "Invalid gateway '255.255.255.255' for option '-g': give an address of one host, not unspecified, multicast or broadcast",
        ),
        (
            "-M 01:00:00:00:00:00",
            "Invalid MAC address '01:00:00:00:00:00' for option '-M': this is a group address or zero: give the address of one interface, its first octet even",
        ),
        (
            "--ns-mac-addr 1",
            "Invalid MAC address '1' for option '--ns-mac-addr': give six octets of two hexadecimal digits, separated by colons",
        ),
        (
            "-i sixteen-bytes-16",
            "Invalid interface 'sixteen-bytes-16' for option '-i': give an interface name of 1 to 15 bytes",
        ),
        (
            "--outbound-if6 a/b",
            "Invalid interface 'a/b' for option '--outbound-if6': give an interface name of 1 to 15 bytes",
        ),
        (
            "-I lo",
            "Invalid interface name 'lo' for option '-I': that is the name of the loopback interface: give another",
        ),
        (
            "-D example.org",
            "Invalid name server 'example.org' for option '-D': give an IPv4 or IPv6 address, or 'none'",
        ),
        (
            "--dns-forward 127.0.0.1",
            "Invalid DNS forward address '127.0.0.1' for option '--dns-forward': a loopback address means another host to the guest: give another",
        ),
        (
            "--map-host-loopback ff02::1",
            "Invalid address 'ff02::1' for option '--map-host-loopback': give an address of one host, not unspecified, multicast or broadcast",
        ),
        (
            "-S a..b",
            "Invalid search domain 'a..b' for option '-S': give labels of 1 to 63 letters, digits and hyphens, separated by single dots",
        ),
        ("--log-size 4096", "Invalid log size '4096' for option '--log-size': give a number of bytes, 40960 or more"),
        ("--stats 0", "Invalid interval '0' for option '--stats': give a number of seconds, 1 or more"),
        ("--runas 1:", "Invalid user '1:' for option '--runas': give UID, UID:GID, LOGIN or LOGIN:GROUP"),
        ("--pid=", "Invalid PID file '' for option '--pid': give the path of a file"),
        ("-t 22/33", "Invalid port specification '22/33' for option '-t': '22/33' is not a port from 1 to 65535"),
        (
            "-T 127.0.0.1/33",
            "Invalid port specification '127.0.0.1/33' for option '-T': these ports are listened to on the namespace's loopback: give no address or interface",
        ),
        ("-u 53 --no-udp", "Invalid port specification '53' for option '-u': UDP is switched off by '--no-udp'"),
        (
            "-t [::1]/80 -4",
            "Invalid port specification '[::1]/80' for option '-t': IPv6 is switched off by '--ipv4-only'",
        ),
        (
            "-t 80 -t none",
            "Invalid port specification 'none' for option '-t': 'none' stands alone, as the first specification of its kind",
        ),
        (
            "-t 80 --tcp-ports 70-90",
            "Overlapping port specifications for option '--tcp-ports': '70-90' overlaps '80' in port 80: leave it out of one of them",
        ),
        ("-s /x", "--socket is for passt mode only"),
        ("--vhost-user", "--vhost-user is for passt mode only"),
        ("--no-pidns", "Option '--no-pidns' is for a spawned command only: leave it out"),
        ("--stats 1", "Option '--stats' prints to the terminal: it needs '--foreground' as well"),
        ("--no-copy-routes", "Options '--no-copy-routes' and '--no-copy-addrs' need '--config-net' as well"),
        (
            "--no-splice --splice-only",
            "Options '--splice-only' and '--no-splice' contradict each other: leave one of them out",
        ),
        (
            "--host-lo-to-ns-lo --no-splice",
            "Options '--host-lo-to-ns-lo' and '--no-splice' contradict each other: leave one of them out",
        ),
        (
            "-a 10.0.0.1/8 -n 24",
            "Option '--netmask' and a prefix length in '--address' say the same: leave one of them out",
        ),
        ("--ns-mac-addr 9a:55:9a:55:9a:55", "Options '--mac-addr' and '--ns-mac-addr' need different addresses"),
        ("--netns blue", "Both option '--netns blue' and a process id or command given: leave one of them out"),
        (
            "--userns /u --netns-only",
            "Options '--userns /u' and '--netns-only' contradict each other: leave one of them out",
        ),
    ];
    for (line, message) in cases {
        assert_eq!(refused("pasta", &format!("{line} 1234")), message, "{line}");
    }
}

#[test]
fn operands_that_are_refused() {
    let invalid = "Invalid process id '0': give the id of a process, from 1 to 2147483647";
    assert_eq!(refused("pasta", "0"), invalid);
    assert_eq!(
        refused("pasta", "--netns .."),
        "Invalid namespace '..' for option '--netns': give the path of a namespace file, or a name in /run/netns"
    );
    assert_eq!(
        refused("spelt", "attach 0"),
        "error: Invalid namespace '0': give the id of a process, from 1 to 2147483647"
    );
    assert_eq!(
        refused("spelt", "attach --netns blue 12"),
        "error: Both option '--netns blue' and a process id or command given: leave one of them out"
    );
}

#[test]
fn unknown_options_bring_the_usage() {
    for (line, complaint) in [
        ("--x", "unrecognized option '--x'"),
        ("-Z", "invalid option -- 'Z'"),
        ("-m", "option requires an argument -- 'm'"),
        ("--mtu", "option '--mtu' requires an argument"),
        ("--quiet=1", "option '--quiet' doesn't allow an argument"),
    ] {
        let message = refused("./pasta", line);
        assert!(message.starts_with(&format!("./pasta: {complaint}\nUsage: pasta [OPTION]")), "{message}");
        assert!(!message.ends_with('\n'));
    }
    // Values come in order: the first fault is the one told.
    assert!(refused("pasta", "-m x --unknown").starts_with("Invalid MTU"));
}

#[test]
fn spelt_refuses_in_the_same_words() {
    let cases = [
        (
            "vm --connect /a --fd 3",
            "error: Options '--fd 3' and '--connect /a' contradict each other: leave one of them out",
        ),
        (
            "vm --connect /a -s /b",
            "error: Options '--socket /b' and '--connect /a' contradict each other: leave one of them out",
        ),
        (
            "run -m 70000 -- true",
            "error: Invalid MTU '70000' for option '--mtu': give a number from 68 to 65521, or 0 to advertise none",
        ),
        (
            "attach -t 0 1",
            "error: Invalid port specification '0' for option '--tcp-ports': '0' is not a port from 1 to 65535",
        ),
        ("run --queues 9", "error: Invalid number of queues '9' for option '--queues': give a number from 1 to 8"),
        ("vm --threads 0", "error: Invalid number of threads '0' for option '--threads': give a number from 1 to 8"),
        (
            "vm --vhost-user --queues 1",
            "error: Option '--queues 1' is for namespaces; of a virtual machine the hypervisor decides how many queues it has: leave it out",
        ),
        (
            "vm --threads 2",
            "error: Option '--threads 2' needs '--vhost-user' as well: a socket that carries frames has one queue",
        ),
        ("run --threads 2 --queues 1", "error: Option '--threads 2' needs as many queues, not 1: give '--queues 2'"),
        (
            "attach --queues 3 --threads 4 1",
            "error: Option '--threads 4' needs as many queues, not 3: give '--queues 4'",
        ),
        (
            "run --queues 2 --splice-only",
            "error: Option '--splice-only' makes no interface: leave out '--queues' and '--threads'",
        ),
    ];
    for (line, message) in cases {
        assert_eq!(refused("spelt", line), message);
    }
    let cases = [
        ("run --mtus 1500", &["unexpected argument '--mtus'", "did you mean '--mtu'?"][..]),
        ("run --mut=3", &["did you mean '--mtu'?"]),
        ("run -m", &["--mtu <MTU>"]),
        ("run --quiet=3", &["'3'", "--quiet"]),
        ("run --netns x", &["unexpected argument '--netns'"]),
        ("attach", &["<PID|PATH|NAME>"]),
        ("attach 1 2", &["unexpected argument '2'"]),
        ("attach --no-pidns 1", &["unexpected argument '--no-pidns'", "it is an option of 'spelt run'"]),
        ("rum", &["'rum'", "'run'"]),
        ("run --chekc", &["'--chekc'", "'--check'"]),
        ("attach --foregruond 1", &["'--foregruond'", "'--foreground'"]),
        ("run --no-tcpp", &["'--no-tcp'"]),
        ("run -t http", &["'http' is neither a port nor 'all', 'auto' or 'none'"]),
        ("--quiet", &["--quiet"]),
    ];
    for (line, parts) in cases {
        let message = refused("spelt", line);
        for part in parts {
            assert!(message.contains(part), "{line}: {message}");
        }
    }
}

#[test]
fn spelt_alone_explains_itself() {
    let message = refused("spelt", "");
    assert!(message.contains("spelt run") && message.contains("spelt attach") && message.contains("spelt --help"));
    assert!(message.lines().count() <= 7);
}

fn printed(argv0: &str, line: &str) -> String {
    match parse(argv0, &words(line)) {
        Ok(Command::Print { text, stdout: true, status: 0 }) => text,
        other => panic!("{argv0} {line}: {other:?}"),
    }
}

#[test]
fn help_and_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(printed("/bin/pasta", "-q --version").lines().next(), Some(&*format!("pasta {version}")));
    for line in ["--version", "-V"] {
        assert_eq!(printed("spelt", line), format!("spelt {version}\n"));
    }
    assert!(printed("spelt", "run --version").contains(version));
    for line in ["-h", "--help", "-q --he -Z", "-qh"] {
        let text = printed("pasta", line);
        assert!(text.starts_with("Usage: pasta") && text.contains("-t, --tcp-ports SPEC"), "{text}");
        assert!(text.lines().all(|l| l.len() <= 80), "{text}");
    }
    for line in ["--help", "-h", "run --help", "attach -h", "vm --help"] {
        let text = printed("spelt", line);
        assert!(text.lines().all(|l| l.len() <= 80) && text.ends_with('\n'), "{text}");
    }
    let help = printed("spelt", "--help");
    for part in ["run", "attach", "Examples:", "spelt run -- ", "spelt attach -t", "spelt vm --socket"] {
        assert!(help.contains(part), "{help}");
    }
    for line in ["run --help", "run -h"] {
        let help = printed("spelt", line);
        for part in ["Port forwarding:", "-t, --tcp-ports <SPEC>", "--no-config-net", "spelt run -t"] {
            assert!(help.contains(part), "{help}");
        }
        assert!(help.contains("--queues <N>") && help.contains("--threads <N>"), "{help}");
        for hidden in ["--stderr", "--socket", "--userns", "\n      --config-net"] {
            assert!(!help.contains(hidden), "{hidden} in {help}");
        }
    }
    assert!(printed("spelt", "attach --help").contains("--userns <PATH>"));
    let (vm, passt) = (printed("spelt", "vm --help"), printed("passt", "-h"));
    for part in ["-s, --socket", "-F, --fd", "-1, --one-off", "--vhost-user", "--no-dhcp-dns"] {
        assert!(vm.contains(part) && passt.contains(part), "{part}");
    }
    for hidden in ["--repair-path", "--migrate-exit", "--ns-ifname", "--tcp-ns", "\n      --dhcp-dns", "--queues"] {
        assert!(!vm.contains(hidden), "{hidden}");
    }
    assert!(vm.contains("--threads <N>"), "{vm}");
}

#[test]
fn what_pasta_has_is_there() {
    for line in
        ["", "-c /s", "-f --stats 1", "-t 22 -u 53:5353,54", "-t 22 -t auto -u all", "-t ~22", "-T none -U none", "-e"]
    {
        assert_eq!(pasta(&format!("{line} 1")).unsupported(), None, "{line}");
    }
}
