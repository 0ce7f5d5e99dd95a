//! Judges what guests get of the network, and how many of them there can be. Pure.

use super::Finding;
use super::facts::{Facts, Ipv6, Network, Route, RuntimeDir};
use super::isolation::words;
use crate::base::Family;
use crate::ns::Broker;
use crate::splice::Splice;

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![ping(facts), low_ports(facts), peek_offset(facts), udp(facts), socket_lists(facts)];
    all.extend([open_files(facts.open_files), runtime_dir(&facts.runtime_dir), ipv6(facts)]);
    match &facts.network {
        Ok(network) => {
            all.push(route(network, Family::V4));
            if facts.ipv6 == Ipv6::On {
                all.push(route(network, Family::V6));
            }
            all.push(names(network));
        }
        Err(sentence) => all.push(Finding::missing(
            "network",
            "network to copy",
            sentence,
            "allow sockets of the family AF_NETLINK to this user (`RestrictAddressFamilies=` of a service)",
        )),
    }
    all
}

fn ping(facts: &Facts) -> Finding {
    const ID: &str = "ping";
    const WHAT: &str = "ping";
    let groups = match facts.sysctl.ping_groups {
        None => "not to be read".into(),
        Some((first, last)) if first > last => "no groups".into(),
        Some((first, last)) => format!("{first} to {last}"),
    };
    let setting = format!("groups that may (net.ipv4.ping_group_range): {groups}");
    match facts.ping {
        Ok(()) => Finding::ok(ID, WHAT, format!("allowed; {setting}")),
        Err(libc::EACCES | libc::EPERM) => {
            let ours: Vec<String> = facts.groups.iter().map(ToString::to_string).collect();
            Finding::warning(
                ID,
                WHAT,
                format!("guests cannot; {setting}; yours: {}", ours.join(", ")),
                "as root, `sysctl -w net.ipv4.ping_group_range='0 2147483647'`; to keep it, copy \
                 contrib/60-ping-group-range.conf to /etc/sysctl.d",
            )
        }
        Err(e) => Finding::warning(
            ID,
            WHAT,
            format!("guests cannot: there are no echo sockets ({})", words(e)),
            "boot a kernel with CONFIG_INET, and in a container allow socket(2) of IPPROTO_ICMP in its seccomp profile \
             (`--security-opt seccomp=FILE`)",
        ),
    }
}

fn low_ports(facts: &Facts) -> Finding {
    const ID: &str = "low-ports";
    const WHAT: &str = "ports of the host";
    let first = facts.sysctl.first_port.unwrap_or(1024);
    match (facts.binds_low_ports, first) {
        (true, _) | (_, 0 | 1) => Finding::ok(ID, WHAT, "all can be forwarded"),
        (false, first) => Finding::ok(
            ID,
            WHAT,
            format!(
                "{first} and above can be forwarded (for lower ones, as root: \
                 `sysctl -w net.ipv4.ip_unprivileged_port_start=PORT`)"
            ),
        ),
    }
}

fn peek_offset(facts: &Facts) -> Finding {
    const ID: &str = "peek-offset";
    const WHAT: &str = "TCP from the host";
    let found = match (facts.peek_offset.v4, facts.peek_offset.v6) {
        (true, true) => return Finding::ok(ID, WHAT, "without copies (SO_PEEK_OFF for TCP)"),
        // Where there is no IPv6, that is said elsewhere.
        (true, false) if facts.ipv6 == Ipv6::NotInKernel => {
            return Finding::ok(ID, WHAT, "without copies (SO_PEEK_OFF for TCP over IPv4)");
        }
        (true, false) => "slower over IPv6 (no SO_PEEK_OFF for TCP there)",
        (false, _) => "slower (no SO_PEEK_OFF for TCP)",
    };
    Finding::warning(
        ID,
        WHAT,
        found,
        "boot Linux 6.9 or later for IPv4, 6.11 or later for IPv6; `uname -r` shows which runs",
    )
}

fn udp(facts: &Facts) -> Finding {
    const ID: &str = "udp-offloads";
    const WHAT: &str = "UDP in batches";
    let lacks = match (facts.udp.gro, facts.udp.gso) {
        (true, true) => return Finding::ok(ID, WHAT, "received and sent (UDP_GRO, UDP_SEGMENT)"),
        (false, true) => "not received (no UDP_GRO)",
        (true, false) => "not sent (no UDP_SEGMENT)",
        (false, false) => "neither received nor sent (no UDP_GRO, no UDP_SEGMENT)",
    };
    Finding::warning(ID, WHAT, lacks, "fast UDP costs more without: boot Linux 5.0 or later, which `uname -r` shows")
}

fn socket_lists(facts: &Facts) -> Finding {
    const ID: &str = "socket-lists";
    const WHAT: &str = "ports in use";
    match facts.socket_lists {
        Ok(()) => Finding::ok(ID, WHAT, "can be listed (tcp_diag, udp_diag), as `-t auto` needs"),
        Err(e) => Finding::warning(
            ID,
            WHAT,
            format!("cannot be listed ({}), so `-t auto` and `-u auto` find none", words(e)),
            "as root, `modprobe -a tcp_diag udp_diag`; to keep it, name them in a file in /etc/modules-load.d",
        ),
    }
}

fn open_files((soft, hard): (u64, u64)) -> Finding {
    const ID: &str = "open-files";
    const WHAT: &str = "open files";
    let flows = flows(hard);
    let limit = if soft < hard { format!("{soft}, which spelt raises to {hard}") } else { hard.to_string() };
    let found = format!("{limit}: about {} connections at once", rounded(flows));
    let mend = "raise the hard limit: `ulimit -Hn` shows it, /etc/security/limits.conf (nofile) sets it for logins, \
                `LimitNOFILE=` for services";
    match (hard, flows) {
        (..FILES_MIN, _) => Finding::missing(ID, WHAT, found, mend),
        (_, ..FLOWS_FEW) => Finding::warning(ID, WHAT, found, mend),
        _ => Finding::ok(ID, WHAT, found),
    }
}

/// With fewer the start fails.
const FILES_MIN: u64 = 16;
/// A crowd that one browser or package manager can make.
const FLOWS_FEW: u64 = 1000;

/// What is told of it is an estimate.
fn rounded(flows: u64) -> u64 {
    if flows < FLOWS_FEW { flows } else { flows - flows % 100 }
}

/// Descriptors that `run` leaves for flows, as the start reckons them.
fn flows(most: u64) -> u64 {
    /// Open at the start, and what workers and links need.
    const OWN: u64 = 48;
    let store = (Broker::DESCRIPTORS as u64).min(most / 8) + (Splice::PIPE_DESCRIPTORS as u64).min(most / 16);
    // Each kind of flow has one, whatever is left.
    most.saturating_sub(OWN + store).max(1)
}

fn runtime_dir(dir: &RuntimeDir) -> Finding {
    const ID: &str = "runtime-dir";
    const WHAT: &str = "XDG_RUNTIME_DIR";
    let mend = "log in through PAM (`loginctl` lists sessions; `loginctl enable-linger` makes the directory without one), or \
                name sockets yourself: `spelt vm --socket PATH`";
    match dir {
        RuntimeDir::Usable(path) => Finding::ok(ID, WHAT, path),
        RuntimeDir::Unset => Finding::warning(ID, WHAT, "not set: sockets for virtual machines are in /tmp", mend),
        RuntimeDir::Unusable(path, e) => {
            Finding::warning(ID, WHAT, format!("{path} cannot be used ({})", words(*e)), mend)
        }
    }
}

fn ipv6(facts: &Facts) -> Finding {
    const ID: &str = "ipv6";
    const WHAT: &str = "IPv6";
    match facts.ipv6 {
        Ipv6::On => Finding::ok(ID, WHAT, "the kernel has it"),
        Ipv6::Off => Finding::warning(
            ID,
            WHAT,
            "switched off on every interface (net.ipv6.conf.all.disable_ipv6 is 1)",
            "as root, `sysctl -w net.ipv6.conf.all.disable_ipv6=0`, or give guests no IPv6 either: `spelt run -4`",
        ),
        Ipv6::NotInKernel => Finding::warning(
            ID,
            WHAT,
            "the kernel has none: guests have IPv4 only",
            "take `ipv6.disable=1` from the kernel's command line (/proc/cmdline), or boot a kernel with CONFIG_IPV6",
        ),
    }
}

fn route(network: &Network, family: Family) -> Finding {
    let (id, what, option, show) = match family {
        Family::V4 => ("route-ipv4", "IPv4 to copy", "-4", "ip -4 route"),
        Family::V6 => ("route-ipv6", "IPv6 to copy", "-6", "ip -6 route"),
    };
    let Route { interface, address, gateway, has_default } = &network.families[family];
    let part = |word: &str, value: &Option<String>| value.as_ref().map(|v| format!("{word}{v}")).unwrap_or_default();
    match interface {
        None => Finding::warning(
            id,
            what,
            "no interface with a route: a guest reaches the host only",
            format!("bring the host's network up (`{show}` shows it)"),
        ),
        Some(name) => {
            let found = format!("interface {name}{}{}", part(", address ", address), part(", gateway ", gateway));
            if address.is_none() {
                return Finding::warning(
                    id,
                    what,
                    format!("{found}, without an address a guest could take"),
                    format!(
                        "give the interface one (`ip addr`), or leave the other family alone with guests (not `{option}`)"
                    ),
                );
            }
            if *has_default {
                return Finding::ok(id, what, found);
            }
            let mend =
                format!("add one on the host (`{show}` shows what there is), or choose with `spelt run -i INTERFACE`");
            Finding::warning(id, what, format!("{found}, no default route"), mend)
        }
    }
}

fn names(network: &Network) -> Finding {
    const ID: &str = "names";
    const WHAT: &str = "name servers";
    let servers = network.servers.join(", ");
    if network.resolv_conf_exists {
        return Finding::ok(ID, WHAT, format!("{servers} (/etc/resolv.conf)"));
    }
    Finding::warning(
        ID,
        WHAT,
        format!("there is no /etc/resolv.conf, which means {servers}"),
        "write `nameserver ADDRESS` into /etc/resolv.conf, or name one with `spelt run --dns ADDRESS`",
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::facts::tests::healthy;
    use super::super::facts::{Sysctl, UdpOffloads};
    use super::*;
    use crate::base::PerFamily;

    fn find(facts: &Facts, id: &str) -> Finding {
        judge(facts).into_iter().find(|f| f.id == id).unwrap()
    }

    #[test]
    fn who_may_not_ping_is_told_which_groups_may() {
        let sysctl = Sysctl { ping_groups: Some((1, 0)), ..Sysctl::default() };
        let finding = find(&Facts { ping: Err(libc::EACCES), sysctl, ..healthy() }, "ping");
        assert_eq!(finding.state, State::Warning);
        assert!(finding.found.contains("no groups; yours: 1000, 27"), "{finding:?}");
        assert!(finding.mend.unwrap().contains("ping_group_range='0 2147483647'"));
        let finding = find(&Facts { ping: Err(libc::EPROTONOSUPPORT), ..healthy() }, "ping");
        assert!(finding.mend.unwrap().contains("CONFIG_INET"));
    }

    #[test]
    fn privileged_ports_are_no_fault() {
        let found = |binds_low_ports, first| {
            let sysctl = Sysctl { first_port: first, ..Sysctl::default() };
            let finding = find(&Facts { binds_low_ports, sysctl, ..healthy() }, "low-ports");
            assert_eq!(finding.state, State::Ok);
            finding.found
        };
        assert!(found(false, Some(80)).starts_with("80 and above"));
        assert!(found(false, None).starts_with("1024 and above"));
        assert!(found(true, Some(1024)).starts_with("all") && found(false, Some(0)).starts_with("all"));
    }

    #[test]
    fn the_limit_on_files_is_told_in_connections() {
        let state = |hard| open_files((hard, hard)).state;
        assert_eq!(
            [12, 256, 1024, 4096, 1 << 20].map(state),
            [State::Missing, State::Warning, State::Warning, State::Ok, State::Ok]
        );
        assert!(open_files((1024, 4096)).found.starts_with("1024, which spelt raises to 4096: about 3"));
        let found = open_files((4096, 4096)).found;
        assert!(found.starts_with("4096: about 3") && found.contains("00 connections"), "{found}");
    }

    #[test]
    fn older_kernels_are_slower() {
        let peek =
            |v4, v6, ipv6| find(&Facts { peek_offset: PerFamily::new(v4, v6), ipv6, ..healthy() }, "peek-offset");
        assert_eq!(peek(true, false, Ipv6::NotInKernel).state, State::Ok);
        assert!(peek(true, false, Ipv6::On).found.contains("over IPv6"));
        assert_eq!(peek(false, false, Ipv6::On).state, State::Warning);
        let udp = find(&Facts { udp: UdpOffloads { gro: false, gso: true }, ..healthy() }, "udp-offloads");
        assert!(udp.state == State::Warning && udp.found.contains("UDP_GRO"));
        let lists = find(&Facts { socket_lists: Err(libc::ENOENT), ..healthy() }, "socket-lists");
        assert!(lists.state == State::Warning && lists.mend.unwrap().contains("modprobe"));
    }

    #[test]
    fn a_family_without_a_route_is_told() {
        let mut facts = healthy();
        let mut network = facts.network.clone().unwrap();
        network.families.v4 = Route::default();
        network.families.v6.has_default = false;
        network.resolv_conf_exists = false;
        facts.network = Ok(network);
        for (id, found) in
            [("route-ipv4", "no interface"), ("route-ipv6", "no default route"), ("names", "no /etc/resolv")]
        {
            let finding = find(&facts, id);
            assert_eq!(finding.state, State::Warning);
            assert!(finding.found.contains(found), "{finding:?}");
        }
        facts.ipv6 = Ipv6::Off;
        assert!(judge(&facts).iter().all(|f| f.id != "route-ipv6"));
        assert_eq!(find(&facts, "ipv6").state, State::Warning);
    }

    #[test]
    fn a_place_for_sockets_may_be_missing() {
        let unusable = RuntimeDir::Unusable("/run/user/1".into(), libc::EACCES);
        for (dir, found) in
            [(RuntimeDir::Unset, "not set"), (unusable, "/run/user/1 cannot be used (Permission denied)")]
        {
            let finding = runtime_dir(&dir);
            assert!(finding.state == State::Warning && finding.found.contains(found), "{finding:?}");
        }
    }
}
