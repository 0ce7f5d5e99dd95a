//! A tap device in another network namespace, whole TSO frames included.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// Creates the tap `name` in the namespace of the file `namespace` and returns its non-blocking descriptor. Every frame
/// is preceded by a virtio-net header of ten bytes; with `offload` frames of up to 64 KiB pass.
pub fn open(namespace: &Path, name: &str, offload: bool) -> Result<File> {
    let home = File::open("/proc/thread-self/ns/net")?;
    let away = File::open(namespace).with_context(|| format!("cannot open {}", namespace.display()))?;
    setns(&away, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
    let tap = create(name, offload).with_context(|| format!("cannot create the tap {name}"));
    setns(&home, CloneFlags::CLONE_NEWNET).context("cannot return from the namespace")?;
    tap
}

fn create(name: &str, offload: bool) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let offloads = if offload { libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 } else { 0 };
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })?;
    // SAFETY: plain descriptor flags, no pointers.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(file)
}

fn check(result: libc::c_int) -> Result<()> {
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}
