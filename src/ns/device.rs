//! The tap: made, or taken over if it exists, and what stands in the way of it.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoTun, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::net::if_::if_nametoindex;

use super::{Error, Interface, Offloads};
use crate::sys::netlink::Netlink;
use crate::sys::tun::{self, TunError};

/// Its descriptors, one for each queue.
///
/// # Errors
/// With what to do about it.
pub fn open(interface: &Interface) -> Result<(Vec<OwnedFd>, Offloads), Error> {
    let open = |queues| tun::open(&interface.name, queues).map_err(|e| explain(e, interface));
    if if_nametoindex(interface.name.as_str()).is_err() {
        let opened = open(interface.queues)?;
        if interface.queues > 1 {
            leave_out_qdisc(&interface.name);
        }
        return Ok(opened);
    }
    let there = existing(&interface.name);
    // Where there is one queue the kernel refuses its second user. Those of several would share the guest's frames.
    if there.as_ref().is_some_and(|tap| tap.in_use) {
        return Err(explain(TunError::Create(io::Error::from_raw_os_error(libc::EBUSY)), interface));
    }
    let several = there.is_some_and(|tap| tap.multi_queue);
    open(if interface.fewer_will_do && !several { 1 } else { interface.queues })
}

/// The kernel makes a device of several queues with 256 of them, and when it comes up would give each a queueing
/// discipline with room for as many frames as ours hold: 100 MB and 140 ms, for queues in which no frame ever waits. Where
/// that cannot be helped, everything works all the same.
fn leave_out_qdisc(name: &str) {
    let (Ok(index), Ok(mut netlink)) = (if_nametoindex(name), Netlink::open()) else { return };
    let mut m = TcMessage::with_index(index as i32);
    m.header.parent = TcHandle::ROOT;
    m.attributes = vec![TcAttribute::Kind("noqueue".into())];
    let _ = netlink.apply(&[(RouteNetlinkMessage::NewQueueDiscipline(m), NLM_F_CREATE | NLM_F_REPLACE)]);
}

/// A tap that is there already.
#[derive(Debug, PartialEq, Eq)]
struct Existing {
    multi_queue: bool,
    /// Somebody holds queues of a device that has several.
    in_use: bool,
}

/// The tap of this name; `None` too where the kernel does not tell (before 4.17).
fn existing(name: &str) -> Option<Existing> {
    let mut netlink = Netlink::open().ok()?;
    let links = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).ok()?;
    links.into_iter().find_map(|m| match m {
        RouteNetlinkMessage::NewLink(link) if link.attributes.contains(&LinkAttribute::IfName(name.into())) => {
            link.attributes.iter().find_map(tap_in)
        }
        _ => None,
    })
}

fn tap_in(attribute: &LinkAttribute) -> Option<Existing> {
    let LinkAttribute::LinkInfo(infos) = attribute else { return None };
    let facts = infos.iter().find_map(|i| match i {
        LinkInfo::Data(InfoData::Tun(facts)) => Some(facts),
        _ => None,
    })?;
    let is_tap = number(facts, IFLA_TUN_TYPE) == libc::IFF_TAP as u32;
    let queues = number(facts, IFLA_TUN_NUM_QUEUES) + number(facts, IFLA_TUN_NUM_DISABLED_QUEUES);
    is_tap.then(|| Existing { multi_queue: number(facts, IFLA_TUN_MULTI_QUEUE) != 0, in_use: queues > 0 })
}

/// 0 if it is not there.
fn number(facts: &[InfoTun], kind: u16) -> u32 {
    let Some(fact) = facts.iter().find(|f| f.kind() == kind) else { return 0 };
    let mut bytes = [0; 4];
    match fact.value_len() {
        1 => {
            fact.emit_value(&mut bytes[..1]);
            bytes[0].into()
        }
        4 => {
            fact.emit_value(&mut bytes);
            u32::from_ne_bytes(bytes)
        }
        _ => 0,
    }
}

/// What to do if a tap of this name was made for another number of queues.
fn other_kind(interface: &Interface) -> Option<&'static str> {
    match (existing(&interface.name)?.multi_queue, interface.queues > 1) {
        (true, false) => Some(
            "it exists and was made for several queues (`multi_queue`), and one was asked for: make it anew without, or \
             choose another name",
        ),
        (false, true) => Some(
            "it exists and was made for one queue, and several were asked for: make it anew as \
             `ip tuntap add NAME mode tap multi_queue` does, or choose another name",
        ),
        _ => None,
    }
}

fn explain(e: TunError, interface: &Interface) -> Error {
    let name = &interface.name;
    let text = match e {
        TunError::Open(e) => {
            let hint = match e.kind() {
                io::ErrorKind::NotFound => {
                    "load the kernel module (`modprobe tun`), or give the container the device (`--device /dev/net/tun`)"
                }
                io::ErrorKind::PermissionDenied => {
                    "your user needs read and write permission on it (`chmod 0666 /dev/net/tun` as root), or the \
                     container's device rules forbid it"
                }
                _ => "the kernel module `tun` may be missing (`modprobe tun`)",
            };
            format!("cannot open {}: {e}: {hint}", tun::DEVICE)
        }
        TunError::Create(e) => {
            let hint = match e.raw_os_error() {
                Some(libc::EBUSY) => "another process uses the device of this name: choose another name",
                Some(libc::EPERM) => {
                    "this user may not make network devices in this namespace; on Ubuntu 24.04 and later, AppArmor takes the \
                     right from programs without a profile (`spelt doctor` tells how to get one)"
                }
                Some(libc::EINVAL) => other_kind(interface).unwrap_or(
                    "an interface of this name that is no tap exists in the namespace, or the name is not valid: choose \
                     another name",
                ),
                _ => "the kernel refused it",
            };
            format!("cannot make the tap device `{name}`: {e}: {hint}")
        }
    };
    Error::Failed(text)
}

/// linux/if_link.h
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;
