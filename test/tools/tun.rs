//! A tap device in another network namespace, whole TSO frames included.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use spelt::wire::vnet::{VNET_LEN, VNET_V1_LEN};

/// Creates the tap at `end`, which is the file of a network namespace, a colon and a name, and returns its non-blocking
/// descriptor. One that was left with `keep` is taken over. Every frame is preceded by a virtio-net header of ten
/// bytes; with `offload` frames of up to 64 KiB pass.
pub fn open(end: &str, offload: bool) -> Result<File> {
    let offloads = if offload { libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 } else { 0 };
    inside(end, |name| {
        let tap = create(name, 0)?;
        shape(&tap, VNET_LEN, offloads)?;
        Ok(tap)
    })
}

/// The same with a descriptor for each of `count` queues, the header of virtio 1.0, and these of the kernel's offloads
/// (`TUN_F_*`).
pub fn open_queues(end: &str, count: usize, offloads: libc::c_uint) -> Result<Vec<File>> {
    let several = if count > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    inside(end, |name| {
        let taps = (0..count).map(|_| create(name, several)).collect::<Result<Vec<File>>>()?;
        taps.iter().try_for_each(|tap| shape(tap, VNET_V1_LEN, offloads))?;
        Ok(taps)
    })
}

fn inside<T>(end: &str, act: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let (namespace, name) = end.rsplit_once(':').with_context(|| format!("{end} is not NAMESPACE:TAP"))?;
    let namespace = PathBuf::from(namespace);
    let home = File::open("/proc/thread-self/ns/net")?;
    let away = File::open(&namespace).with_context(|| format!("cannot open {}", namespace.display()))?;
    setns(&away, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
    let done = act(name).with_context(|| format!("cannot create the tap {name}"));
    setns(&home, CloneFlags::CLONE_NEWNET).context("cannot return from the namespace")?;
    done
}

fn create(name: &str, flags: libc::c_int) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = request();
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: plain descriptor flags, no pointers.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(file)
}

/// Whoever had the device before may have left another header, and other offloads.
fn shape(tap: &File, header: usize, offloads: libc::c_uint) -> Result<()> {
    let (header, little_endian): (libc::c_int, libc::c_int) = (header as libc::c_int, (header == VNET_V1_LEN).into());
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) })?;
    // SAFETY: TUNSETVNETLE reads one int, which outlives the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETLE, &raw const little_endian) })?;
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}

/// Leaves the device to its namespace: closing the descriptor does not destroy it any more.
pub fn keep(tap: &File) -> Result<()> {
    // SAFETY: TUNSETPERSIST takes its flag by value.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) })
}

/// The MAC address of the device.
pub fn mac(tap: &File) -> Result<[u8; 6]> {
    let mut request = request();
    // SAFETY: SIOCGIFHWADDR on a tap descriptor writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: the kernel has filled this member of the union; it is plain bytes.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|at| data[at] as u8))
}

/// Gives the device another MAC address.
pub fn set_mac(tap: &File, mac: [u8; 6]) -> Result<()> {
    let mut request = request();
    let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: SIOCSIFHWADDR on a tap descriptor reads one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::SIOCSIFHWADDR, &raw mut request) }).context("cannot set the MAC")
}

fn request() -> libc::ifreq {
    // SAFETY: all zeros is a valid ifreq.
    unsafe { std::mem::zeroed() }
}

fn check(result: libc::c_int) -> Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}
