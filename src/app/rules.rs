//! From the options about ports to rules in force, and how many descriptors those may take.

use std::io;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::base::Family;
use crate::config::{Config, Mode};
use crate::fwd::ports::Ports;
use crate::fwd::{Proto, Rule, Side};
use crate::link::Vhost;
use crate::listen::{self, Forward, ForwardId, Forwards, Listener};
use crate::splice::Splice;
use crate::sys::process;
use crate::sys::sockets::Sockets;
use crate::{control, ns};

/// Every rule, each with the option it came from.
pub fn forwards(config: &Config) -> anyhow::Result<Forwards> {
    let ephemeral = ephemeral_ports();
    let only = only_family(config);
    let mut all = Forwards::default();
    let options = [
        (&config.tcp_ports, "-t", Proto::Tcp, Side::Host),
        (&config.udp_ports, "-u", Proto::Udp, Side::Host),
        (&config.tcp_ns, "-T", Proto::Tcp, Side::Guest),
        (&config.udp_ns, "-U", Proto::Udp, Side::Guest),
    ];
    for (ports, flag, proto, on) in options {
        if !config.carries(proto) {
            continue;
        }
        let ports = ports.explicit(proto, on, only);
        let conflict = |advice| anyhow::anyhow!("overlapping port specifications for option '{flag}': {advice}");
        for rule in ports.rules(&ephemeral).map_err(conflict)? {
            let origin = format!("{flag} {}", ports.origin(&rule).unwrap_or_default());
            all.add(Forward { rule, on, origin });
        }
    }
    Ok(all)
}

/// The one family in use, if there is only one.
pub fn only_family(config: &Config) -> Option<Family> {
    match (config.v4, config.v6) {
        (true, false) => Some(Family::V4),
        (false, true) => Some(Family::V6),
        _ => None,
    }
}

/// The rules whose sockets listen on this side.
pub fn rules_on(forwards: &Forwards, side: Side) -> Vec<Rule> {
    forwards.iter().filter(|(_, f)| f.on == side).map(|(_, f)| f.rule.clone()).collect()
}

/// Ports that are open, and those of lenient forwards that could not be had.
pub struct BoundPorts {
    pub listeners: Vec<Listener>,
    pub refused: Vec<(ForwardId, u16, Errno)>,
}

impl BoundPorts {
    /// Has the books know which could not be had.
    pub fn noted_in(self, forwards: &mut Forwards) -> Vec<Listener> {
        for (id, port, why) in self.refused {
            forwards.refused(id, port, why);
        }
        self.listeners
    }
}

/// Opens the ports of one side that do not wait for the other, or says which one could not be had.
pub fn bind(
    forwards: &Forwards,
    on: Side,
    spare: usize,
    options: &listen::Options,
    sockets: &mut dyn Sockets,
) -> anyhow::Result<BoundPorts> {
    let asked = |side| forwards.lenient_ports(side) as u128;
    let share = (spare / 2) as u128 * asked(on) / (asked(on) + asked(on.other())).max(1);
    let until = Instant::now() + PREDECESSOR;
    let (listeners, left_out) = loop {
        match listen::open_all(forwards, on, share as usize, options, sockets) {
            Err(e) if e.error.source.0.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                // Nothing tells an ordinary user of the end of a process that is not his child.
                let _ = nix::poll::poll(&mut [], RETRY);
            }
            done => break done?,
        }
    };
    if let Some(text) = left_out.summary(process::open_files_max()) {
        // What others use already is to be expected; what a limit takes away is not.
        log::log!(if left_out.no_descriptors > 0 { log::Level::Warn } else { log::Level::Info }, "{text}");
    }
    Ok(BoundPorts { listeners, refused: left_out.refused })
}

/// How long a port may be somebody's yet. A container manager that restarts a container removes the namespace of one
/// instance and starts the next, for the same ports, before the first one may even have had a turn on a busy processor.
const PREDECESSOR: Duration = Duration::from_millis(500);
const RETRY: u8 = 5;

/// True if sockets are needed in the guest's namespace, or the ports in use there matter.
pub fn reaches_inside(config: &Config, forwards: &Forwards) -> bool {
    // Whoever may change the rules may want it.
    let asked = config.conf_path.is_some() && !matches!(config.mode, Mode::Machine { .. });
    asked || forwards.iter().any(|(_, f)| f.on == Side::Guest || f.rule.auto || config.splice)
}

/// Descriptors left for ports and flows: the limit less what is open and what we ourselves will still open. `inside`:
/// sockets of the guest's namespace are kept in store, and pipes lead to them. `requests`: programs may ask for ports. `card`: a machine's
/// rings have descriptors.
pub fn spare_descriptors(inside: bool, requests: bool, card: bool) -> usize {
    /// Namespace and tap, or a machine's listener and client; event loop and its copies, a client that is being
    /// accepted, and some air.
    const OWN: usize = 32;
    let most = process::open_files_max();
    // Store and pipes do with less where there is little.
    let inside =
        if inside { ns::Broker::DESCRIPTORS.min(most / 8) + Splice::PIPE_DESCRIPTORS.min(most / 16) } else { 0 };
    let requests = if requests { control::slirp4netns::CLIENTS_MAX } else { 0 };
    let card = if card { Vhost::DESCRIPTORS } else { 0 };
    most.saturating_sub(process::open_descriptors().len() + 3 + OWN + inside + requests + card)
}

/// How many of `spare` descriptors `all`, exclusions and `auto` may take: half for the first two, so that there are
/// connections to use the ports; little for those that follow the other side, where they are few. When they are not,
/// flows lend them more.
pub fn port_descriptors(forwards: &Forwards, spare: usize) -> usize {
    let lenient = [Side::Host, Side::Guest].iter().any(|side| forwards.lenient_ports(*side) > 0);
    if lenient { spare / 2 + followers(forwards, spare) } else { followers(forwards, spare) }
}

/// How many of `spare` descriptors flows may take, `listening` sockets being open.
pub fn flow_descriptors(forwards: &Forwards, spare: usize, listening: usize) -> usize {
    spare.saturating_sub(listening + followers(forwards, spare))
}

fn followers(forwards: &Forwards, spare: usize) -> usize {
    let follows = forwards.follows(Side::Guest) || forwards.follows(Side::Host);
    if follows { (spare / FOLLOWERS_SHARE).max(1) } else { 0 }
}

/// Part of all descriptors for ports that follow the other side.
const FOLLOWERS_SHARE: usize = 16;

/// True if ports below 1024 may be bound while running: to follow the guest, and for flows of UDP ports.
pub fn needs_low_ports(forwards: &Forwards) -> bool {
    forwards
        .iter()
        .any(|(_, f)| f.on == Side::Host && f.rule.first < 1024 && (f.rule.auto || f.rule.proto == Proto::Udp))
}

/// The kernel's range for ports it chooses itself.
pub fn ephemeral_ports() -> RangeInclusive<u16> {
    let parse = |text: String| {
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
    };
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(parse)
        .unwrap_or(Ports::EPHEMERAL_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fwd::ports::Spec;
    use crate::sys::sockets::Here;

    fn forwards_of(text: &str) -> Forwards {
        let mut forwards = Forwards::default();
        let ports = Ports::Specs(vec![Spec::parse(Proto::Tcp, text).unwrap()]);
        for rule in ports.rules(&Ports::EPHEMERAL_DEFAULT).unwrap() {
            forwards.add(Forward { rule, on: Side::Host, origin: String::new() });
        }
        forwards
    }

    #[test]
    fn a_port_that_is_given_back_is_waited_for() {
        let options = listen::Options { v4: true, v6: false, freebind: false };
        let predecessor = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let forwards = forwards_of(&format!("127.0.0.1/{}", predecessor.local_addr().unwrap().port()));
        let error = bind(&forwards, Side::Host, 100, &options, &mut Here).err().unwrap().to_string();
        assert!(error.contains("Address already in use"), "{error}");
        let start = Instant::now();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(predecessor);
        });
        assert_eq!(bind(&forwards, Side::Host, 100, &options, &mut Here).unwrap().listeners.len(), 1);
        assert!(start.elapsed() >= Duration::from_millis(50));
        ends.join().unwrap();
    }

    #[test]
    fn ports_and_flows_share_the_descriptors() {
        let (all, auto, one) = (forwards_of("all"), forwards_of("auto"), forwards_of("22"));
        assert_eq!(port_descriptors(&all, 200), 100);
        assert_eq!(flow_descriptors(&all, 200, 100), 100);
        assert_eq!(port_descriptors(&auto, 19_000), 1187);
        assert_eq!(flow_descriptors(&auto, 19_000, 0), 17_813);
        assert_eq!(flow_descriptors(&one, 200, 1), 199);
        assert_eq!((port_descriptors(&auto, 0), flow_descriptors(&auto, 0, 0)), (1, 0));
        assert!(needs_low_ports(&auto) && !needs_low_ports(&one));
    }
}
