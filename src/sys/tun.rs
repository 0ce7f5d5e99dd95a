//! The tap device: creating or attaching, and its offloads.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::result;

/// What the kernel finishes for us and leaves to us on this tap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames are preceded by a virtio-net header of 10 bytes.
    pub vnet_header: bool,
    /// Partial checksums, both ways.
    pub csum: bool,
    /// Large TCP segments from the guest. Towards the guest they need only `vnet_header`.
    pub tso: bool,
    /// Large UDP datagrams with a segment size (kernel 6.2).
    pub uso: bool,
}

/// Creates the tap `name` in the calling process's network namespace, or attaches to a persistent one of that name: a
/// descriptor for each of `queues`, non-blocking, close-on-exec. A device created here goes when the last is closed. With
/// several queues the kernel leads a flow to the one that it was last written to, by the hash of its addresses and ports.
///
/// # Errors
/// Of opening `/dev/net/tun` as [`TunError::Open`], of the device as [`TunError::Create`]: `EINVAL` too when it exists with
/// several queues and one was asked for, or the other way round.
pub fn open(name: &str, queues: u8) -> Result<(Vec<OwnedFd>, Offloads), TunError> {
    let file = open_device()?;
    let mut request = request_for(name).map_err(TunError::Create)?;
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    match set_iff(&file, &mut request, flags) {
        Ok(()) => {}
        // A kernel without the header says EINVAL; so does a device of another kind, which the second try tells apart.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            flags &= !libc::IFF_VNET_HDR;
            set_iff(&file, &mut request, flags).map_err(TunError::Create)?;
        }
        Err(e) => return Err(TunError::Create(e)),
    }
    let mut on = Offloads { vnet_header: flags & libc::IFF_VNET_HDR != 0, ..Offloads::default() };
    if on.vnet_header {
        // Those of the device: they hold for queues that are still to come.
        set_offloads(&file, &mut on);
    }
    let mut fds: Vec<OwnedFd> = vec![file.into()];
    for _ in 1..queues {
        let file = open_device()?;
        // The kernel has put the device's name into the request, whatever pattern was asked for.
        set_iff(&file, &mut request, flags).map_err(TunError::Create)?;
        fds.push(file.into());
    }
    Ok((fds, on))
}

fn open_device() -> Result<File, TunError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(DEVICE)
        .map_err(TunError::Open)
}

/// Why there is no tap.
#[derive(Debug)]
pub enum TunError {
    /// `/dev/net/tun` did not open.
    Open(io::Error),
    /// The device was refused.
    Create(io::Error),
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= libc::IFNAMSIZ || name.is_empty() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn set_iff(file: &File, request: &mut libc::ifreq, flags: libc::c_int) -> io::Result<()> {
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
    result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, request) })?;
    Ok(())
}

/// Most first: the kernel refuses a set with one flag it does not know (USO came with 6.2).
fn set_offloads(file: &File, on: &mut Offloads) {
    let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let steps = [(tso | TUN_F_USO4 | TUN_F_USO6, true, true), (tso, true, false), (libc::TUN_F_CSUM, false, false)];
    for (flags, has_tso, has_uso) in steps {
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        let r =
            unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as libc::Ioctl, libc::c_ulong::from(flags)) };
        if r == 0 {
            (on.csum, on.tso, on.uso) = (true, has_tso, has_uso);
            return;
        }
    }
}

/// The device's own MAC address, as the guest's kernel uses it.
///
/// # Errors
/// `EBADFD` if the device is gone.
pub fn mac(fd: impl AsFd) -> io::Result<[u8; 6]> {
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: SIOCGIFHWADDR on a tap descriptor writes one ifreq, which lives until the call returns.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::SIOCGIFHWADDR as libc::Ioctl, &mut request) })?;
    // SAFETY: the kernel has filled this member of the union; it is plain bytes.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mut mac = [0; 6];
    mac.iter_mut().zip(data).for_each(|(to, from)| *to = from as u8);
    Ok(mac)
}

/// Leaves the device to its network namespace: closing the descriptor does not destroy it any more.
///
/// # Errors
/// `EBADFD` if the device is gone.
pub fn make_persistent(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its flag by value.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETPERSIST as libc::Ioctl, 1 as libc::c_ulong) })?;
    Ok(())
}

pub const DEVICE: &str = "/dev/net/tun";
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;
