use std::collections::BTreeSet;

use super::*;
use crate::fwd::ports::{Ports, Spec};
use crate::sys::sockets::Here;

const BOTH: Options = Options { v4: true, v6: true, freebind: false };

/// A kernel with ports that cannot be had, which counts.
#[derive(Default)]
struct Kernel {
    taken: BTreeSet<u16>,
    no_devices: bool,
    made: Vec<(Transport, Bind)>,
    left: Option<usize>,
}

impl Sockets for Kernel {
    fn make(&mut self, wanted: &Wanted) -> io::Result<Socket> {
        let bind = wanted.bind.unwrap();
        let errno = |n| Err(io::Error::from_raw_os_error(n));
        if self.left == Some(0) {
            return errno(libc::EMFILE);
        }
        if bind.device.is_some() && self.no_devices {
            return errno(libc::EPERM);
        }
        if self.taken.contains(&bind.local.port) {
            return errno(libc::EADDRINUSE);
        }
        self.left = self.left.map(|n| n - 1);
        self.made.push((wanted.transport, bind));
        // Any socket will do.
        Here.make(&Wanted { bind: None, transport: Transport::Udp, family: Family::V4 })
    }
}

fn forwards(on: Side, texts: &[(Proto, &str)]) -> Forwards {
    let mut all = Forwards::default();
    for (proto, text) in texts {
        let spec = match on {
            Side::Host => Spec::parse(*proto, text),
            Side::Guest => Spec::parse_outbound(*proto, text),
        };
        for rule in Ports::Specs(vec![spec.unwrap()]).rules(&(200..=65535)).unwrap() {
            all.add(Forward { rule, on, origin: format!("-t {text}") });
        }
    }
    all
}

#[test]
fn exact_rules_have_all_ports_or_name_the_first_that_fails() {
    let all = forwards(Side::Host, &[(Proto::Tcp, "10-12,~11"), (Proto::Udp, "20")]);
    let mut kernel = Kernel::default();
    let (listeners, left_out) = open_all(&all, Side::Host, usize::MAX, &BOTH, &mut kernel).unwrap();
    assert_eq!(listeners.iter().map(|l| l.port).collect::<Vec<_>>(), [10, 12, 20]);
    assert_eq!(left_out.summary(1024), None);
    kernel.taken = [12, 20].into();
    let error = open_all(&all, Side::Host, usize::MAX, &BOTH, &mut kernel).unwrap_err();
    assert_eq!(error.to_string(), "Failed to bind port 12 (Address already in use) for option '-t 10-12,~11'");
}

#[test]
fn what_is_bound_is_ours_before_an_engine_has_it() {
    let port = std::net::UdpSocket::bind("127.9.8.7:0").unwrap().local_addr().unwrap().port();
    let all = forwards(Side::Host, &[(Proto::Udp, &format!("127.9.8.7/{port}"))]);
    let _first = open_all(&all, Side::Host, 0, &BOTH, &mut Here).unwrap();
    let second = open_all(&all, Side::Host, 0, &BOTH, &mut Here).unwrap_err();
    assert_eq!(second.error.to_string(), format!("Failed to bind port {port} (Address already in use)"));
}

#[test]
fn b213_ports_of_exclusions_are_left_out_in_one_sentence() {
    let all = forwards(Side::Host, &[(Proto::Tcp, "~50")]);
    let mut kernel = Kernel { taken: (1..=60).collect(), ..Kernel::default() };
    let (listeners, left_out) = open_all(&all, Side::Host, usize::MAX, &BOTH, &mut kernel).unwrap();
    assert_eq!(listeners.len(), 139);
    assert_eq!(
        left_out.summary(1024).unwrap(),
        "139 of 198 ports of '-t ~50' are forwarded; 59 cannot be bound here, the first is 1 (Address already in use)"
    );
}

#[test]
fn an_option_without_any_port_is_an_error() {
    let all = forwards(Side::Host, &[(Proto::Tcp, "all,~1-150"), (Proto::Udp, "all")]);
    let mut kernel = Kernel { taken: (151..=199).collect(), ..Kernel::default() };
    let error = open_all(&all, Side::Host, usize::MAX, &BOTH, &mut kernel).unwrap_err();
    assert_eq!(error.to_string(), "Failed to bind port 151 (Address already in use) for option '-t all,~1-150'");
}

#[test]
fn d18_few_descriptors_are_shared_by_the_lowest_ports() {
    let all = forwards(Side::Host, &[(Proto::Tcp, "all"), (Proto::Udp, "all,~100"), (Proto::Tcp, "9000")]);
    assert_eq!(all.lenient_ports(Side::Host), 397);
    let mut kernel = Kernel { taken: [3].into(), ..Kernel::default() };
    let (listeners, left_out) = open_all(&all, Side::Host, 20, &BOTH, &mut kernel).unwrap();
    let of = |proto| listeners.iter().filter(|l| l.proto == proto).map(|l| l.port).collect::<Vec<_>>();
    assert_eq!(of(Proto::Udp), [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(of(Proto::Tcp), [9000, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(
        left_out.summary(64).unwrap(),
        "20 of 397 ports of '-t all', '-t all,~100' are forwarded; 2 cannot be bound here, the first is 3 (Address \
         already in use); 375 are left out because the limit on open files is 64, half of it kept for connections: \
         raise it (`ulimit -Hn 1024`) or name fewer ports"
    );
    // The kernel's own limit may come first.
    let mut kernel = Kernel { left: Some(5), ..Kernel::default() };
    let (listeners, left_out) = open_all(&all, Side::Host, usize::MAX, &BOTH, &mut kernel).unwrap();
    assert_eq!((listeners.len(), left_out.no_descriptors), (5, 393));
}

#[test]
fn auto_waits() {
    let all = forwards(Side::Host, &[(Proto::Tcp, "22,auto"), (Proto::Tcp, "auto")]);
    assert!(open_all(&all, Side::Host, usize::MAX, &BOTH, &mut Kernel::default()).unwrap().0.is_empty());
}

#[test]
fn the_guests_loopback_without_device_is_its_two_addresses() {
    let all = forwards(Side::Guest, &[(Proto::Tcp, "22")]);
    let mut kernel = Kernel::default();
    open_all(&all, Side::Guest, usize::MAX, &BOTH, &mut kernel).unwrap();
    let (_, bind) = kernel.made[0];
    assert_eq!((bind.local.addr, bind.device, bind.only_v6), (Addr::V6_UNSPECIFIED, Some(Device::LO), false));
    let mut kernel = Kernel { no_devices: true, ..Kernel::default() };
    let (listeners, _) = open_all(&all, Side::Guest, usize::MAX, &BOTH, &mut kernel).unwrap();
    assert_eq!(listeners.len(), 2);
    let addrs: Vec<_> = kernel.made.iter().map(|(_, b)| b.local.addr.to_string()).collect();
    assert_eq!(addrs, ["127.0.0.1", "::1"]);
}

#[test]
fn families_that_are_off_are_not_listened_on() {
    let all = forwards(Side::Host, &[(Proto::Tcp, "22")]);
    let mut kernel = Kernel::default();
    for options in [Options { v6: false, ..BOTH }, Options { v4: false, freebind: true, ..BOTH }] {
        open_all(&all, Side::Host, usize::MAX, &options, &mut kernel).unwrap();
    }
    let seen: Vec<_> = kernel.made.iter().map(|(_, b)| (b.local.addr, b.only_v6, b.freebind)).collect();
    assert_eq!(seen, [(Addr::V4_UNSPECIFIED, false, false), (Addr::V6_UNSPECIFIED, true, true)]);
}
