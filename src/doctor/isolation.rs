//! Judges what keeps guests and spelt itself apart from the machine: namespaces, the tap in them, what is given up. Pure.

use nix::errno::Errno as Name;

use super::Finding;
use super::facts::{Errno, Facts, Inside, Sysctl, Tap};

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![kernel(facts), user_namespaces(facts), tun(facts), tap(facts)];
    if let Ok(Inside { tap: Ok(tap), .. }) = facts.inside {
        all.push(offloads(tap));
    }
    all.extend([isolation(facts), seccomp(facts), landlock(facts), apparmor(facts), selinux(facts)]);
    all
}

/// The kernel's words for an error.
pub fn words(errno: Errno) -> &'static str {
    Name::from_raw(errno).desc()
}

fn kernel(facts: &Facts) -> Finding {
    const WHAT: &str = "Linux";
    let found = format!("{} ({})", facts.release, facts.machine);
    match version(&facts.release) {
        Some(version) if version >= KERNEL_MIN => Finding::ok("kernel", WHAT, found),
        _ => Finding::warning(
            "kernel",
            WHAT,
            found,
            "before 5.7 nobody has tried spelt: boot a newer kernel, then see `uname -r`",
        ),
    }
}

const KERNEL_MIN: (u32, u32) = (5, 7);

/// Of "6.1.0-13-amd64" the 6 and the 1.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn user_namespaces(facts: &Facts) -> Finding {
    const ID: &str = "user-namespaces";
    const WHAT: &str = "user namespaces";
    match facts.inside {
        Ok(Inside { is_root: Ok(()), .. }) => {
            let most = facts.sysctl.max_user_namespaces.map(|n| format!(", up to {n}")).unwrap_or_default();
            Finding::ok(ID, WHAT, format!("this user may make them, with a network inside{most}"))
        }
        // Since Ubuntu 24.04 they can be made, and are of no use: all capabilities inside are denied.
        Ok(Inside { is_root: Err(e), tap: Err(_) }) if facts.sysctl.apparmor_restricts == Some(1) => {
            let (why, mend) = by_apparmor();
            Finding::missing(ID, WHAT, format!("they can be made, without rights inside ({}{why})", words(e)), mend)
        }
        Ok(Inside { is_root: Err(e), .. }) => Finding::warning(
            ID,
            WHAT,
            format!("they can be made, but the user is not root inside ({})", words(e)),
            "a root user needs the capability CAP_SETFCAP to map itself (/proc/self/uid_map): start spelt as an ordinary user",
        ),
        Err(e) => {
            let (why, mend) = refused(e, &facts.sysctl);
            Finding::missing(ID, WHAT, format!("this user may not make them ({}{why})", words(e)), mend)
        }
    }
}

/// Why there are no namespaces, and what to do.
fn refused(e: Errno, sysctl: &Sysctl) -> (String, String) {
    let set = |name: &str, value: u64| {
        format!("as root, `sysctl -w {name}={value}`; to keep it, write it into a file in /etc/sysctl.d")
    };
    if sysctl.unprivileged_userns_clone == Some(0) {
        let name = "kernel.unprivileged_userns_clone";
        return (format!("; {name} is 0"), set(name, 1));
    }
    for (name, value) in [
        ("user.max_user_namespaces", sysctl.max_user_namespaces),
        ("user.max_net_namespaces", sysctl.max_net_namespaces),
    ] {
        if value == Some(0) {
            return (format!("; {name} is 0"), set(name, 15000));
        }
    }
    if sysctl.apparmor_restricts == Some(1) {
        return by_apparmor();
    }
    let mend = match e {
        libc::ENOSPC | libc::EUSERS => {
            "there are as many as /proc/sys/user allows, or they are nested too deeply: end some (`lsns` lists them), or \
             raise user.max_user_namespaces there"
        }
        libc::ENOSYS | libc::EINVAL => {
            "boot a kernel with CONFIG_USER_NS and CONFIG_NET_NS (see `zgrep _NS= /proc/config.gz`)"
        }
        _ => {
            "in a container, start it with a seccomp profile that allows unshare and clone (`--security-opt seccomp=FILE`); \
             in a chroot, leave it, or see `dmesg` for a security module that refused"
        }
    };
    (String::new(), mend.into())
}

fn by_apparmor() -> (String, String) {
    let name = "kernel.apparmor_restrict_unprivileged_userns";
    let mend =
        format!("install spelt's AppArmor profile (contrib/README.md tells how), or as root `sysctl -w {name}=0`");
    (format!("; {name} is 1"), mend)
}

fn tun(facts: &Facts) -> Finding {
    const ID: &str = "tun";
    const WHAT: &str = "/dev/net/tun";
    let Err(e) = facts.tun else { return Finding::ok(ID, WHAT, "can be read and written") };
    let mend = match e {
        libc::ENOENT | libc::ENOTDIR => {
            "as root, `modprobe tun`; in a container, pass the device in (`--device /dev/net/tun`), or make it with \
             `mknod /dev/net/tun c 10 200`"
        }
        libc::ENODEV | libc::ENXIO => "as root, `modprobe tun`, or boot a kernel with CONFIG_TUN",
        libc::EPERM => "allow the device in the container's or the service's cgroup (`DeviceAllow=/dev/net/tun rw`)",
        _ => "as root, `chmod 0666 /dev/net/tun`, as distributions ship it; for the device alone is no privilege",
    };
    Finding::missing(ID, WHAT, format!("cannot be opened ({})", words(e)), mend)
}

fn tap(facts: &Facts) -> Finding {
    const ID: &str = "tap";
    const WHAT: &str = "tap in a namespace";
    match facts.inside {
        Err(_) => Finding::warning(
            ID,
            WHAT,
            "not tried, for want of a namespace",
            "mend what is said of user namespaces, then start `spelt doctor` again",
        ),
        Ok(Inside { tap: Ok(_), .. }) => Finding::ok(ID, WHAT, "can be made"),
        Ok(Inside { tap: Err(e), .. }) => Finding::missing(
            ID,
            WHAT,
            format!("cannot be made ({})", words(e)),
            match facts.tun {
                Err(_) => "mend what is said of /dev/net/tun",
                Ok(()) if facts.sysctl.apparmor_restricts == Some(1) => "mend what is said of user namespaces",
                Ok(()) => "see `dmesg` for a security module that refused TUNSETIFF on /dev/net/tun",
            },
        ),
    }
}

fn offloads(tap: Tap) -> Finding {
    const ID: &str = "offloads";
    const WHAT: &str = "offloads of the tap";
    let all = [
        (tap.vnet_header, "virtio-net header"),
        (tap.csum, "checksums"),
        (tap.tso, "TCP segmentation"),
        (tap.uso, "UDP segmentation"),
    ];
    let named =
        |on: bool| all.iter().filter(|(has, _)| *has == on).map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    let (has, lacks) = (named(true), named(false));
    if lacks.is_empty() {
        return Finding::ok(ID, WHAT, has);
    }
    let mend = "traffic costs more processor time without: boot Linux 6.2 or later (`uname -r`) for all of them";
    Finding::warning(ID, WHAT, format!("without {lacks}"), mend)
}

fn isolation(facts: &Facts) -> Finding {
    const ID: &str = "isolation";
    const WHAT: &str = "isolation of spelt";
    match &facts.isolation {
        Ok(()) => Finding::ok(ID, WHAT, "complete: empty root, no capabilities, Landlock, filter of system calls"),
        Err(sentence) => Finding::missing(
            ID,
            WHAT,
            format!("incomplete ({sentence})"),
            "mend what is named there, or do without it by `spelt run --allow-degraded`",
        ),
    }
}

fn seccomp(facts: &Facts) -> Finding {
    const ID: &str = "seccomp";
    const WHAT: &str = "filters of system calls";
    match facts.seccomp {
        Ok(()) => Finding::ok(ID, WHAT, "the kernel has them (seccomp)"),
        Err(e) => Finding::missing(
            ID,
            WHAT,
            format!("there are none ({})", words(e)),
            "boot a kernel with CONFIG_SECCOMP_FILTER, or do without by `spelt run --allow-degraded`",
        ),
    }
}

fn landlock(facts: &Facts) -> Finding {
    const ID: &str = "landlock";
    const WHAT: &str = "Landlock";
    let among = facts.modules.as_ref().map(|m| format!(", security modules: {m}")).unwrap_or_default();
    match facts.landlock {
        // From 6.12 it keeps abstract sockets and signals from others, too; a lack of it is one among many layers'.
        Ok(version) => Finding::ok(ID, WHAT, format!("interface version {version}{among}")),
        Err(e) => Finding::missing(
            ID,
            WHAT,
            format!("not there ({}{among})", words(e)),
            if e == libc::EOPNOTSUPP {
                "add landlock to `lsm=` on the kernel's command line (/sys/kernel/security/lsm has the list to extend), or do \
                 without by `spelt run --allow-degraded`"
            } else {
                "boot Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, or do without by `spelt run --allow-degraded`"
            },
        ),
    }
}

/// Neither of the two need be there; who looks for a reason of refusals wants to know.
fn apparmor(facts: &Facts) -> Finding {
    let found =
        facts.apparmor.as_ref().map_or("not on".into(), |profile| format!("on; profile of this process: {profile}"));
    Finding::ok("apparmor", "AppArmor", found)
}

fn selinux(facts: &Facts) -> Finding {
    let found = match facts.selinux_enforces {
        None => "not on",
        Some(false) => "on; permissive",
        Some(true) => "on; enforcing (`ausearch -m avc -c spelt` shows what it denied)",
    };
    Finding::ok("selinux", "SELinux", found)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::facts::tests::healthy;
    use super::*;

    fn find(facts: &Facts, id: &str) -> Finding {
        judge(facts).into_iter().find(|f| f.id == id).unwrap()
    }

    #[test]
    fn the_setting_that_forbids_namespaces_is_named() {
        let zero = Some(0);
        let settings = [
            Sysctl { max_user_namespaces: zero, ..Sysctl::default() },
            Sysctl { max_net_namespaces: zero, ..Sysctl::default() },
            Sysctl { unprivileged_userns_clone: zero, ..Sysctl::default() },
            Sysctl { apparmor_restricts: Some(1), ..Sysctl::default() },
        ];
        let told = [
            ("user.max_user_namespaces is 0", "user.max_user_namespaces=15000"),
            ("user.max_net_namespaces is 0", "user.max_net_namespaces=15000"),
            ("kernel.unprivileged_userns_clone is 0", "kernel.unprivileged_userns_clone=1"),
            ("kernel.apparmor_restrict_unprivileged_userns is 1", "contrib/README.md"),
        ];
        for (sysctl, (found, mend)) in settings.into_iter().zip(told) {
            let finding = find(&Facts { inside: Err(libc::EPERM), sysctl, ..healthy() }, "user-namespaces");
            assert_eq!(finding.state, State::Missing);
            assert!(finding.found.contains(found) && finding.mend.as_ref().unwrap().contains(mend), "{finding:?}");
        }
    }

    #[test]
    fn other_refusals_of_namespaces_have_their_advice() {
        for (errno, mend) in [(libc::ENOSPC, "lsns"), (libc::EINVAL, "CONFIG_USER_NS"), (libc::EPERM, "seccomp=")] {
            let finding = find(&Facts { inside: Err(errno), ..healthy() }, "user-namespaces");
            assert!(finding.mend.clone().unwrap().contains(mend), "{finding:?}");
        }
        let facts = Facts { inside: Ok(Inside { is_root: Err(libc::EPERM), tap: Err(libc::EPERM) }), ..healthy() };
        assert_eq!(
            (find(&facts, "user-namespaces").state, find(&facts, "tap").state),
            (State::Warning, State::Missing)
        );
        let facts = Facts { sysctl: Sysctl { apparmor_restricts: Some(1), ..Sysctl::default() }, ..facts };
        let finding = find(&facts, "user-namespaces");
        assert_eq!((finding.state, find(&facts, "tap").state), (State::Missing, State::Missing));
        assert!(finding.mend.as_ref().unwrap().contains("AppArmor profile"), "{finding:?}");
    }

    #[test]
    fn without_a_namespace_no_tap_was_tried() {
        let facts = Facts { inside: Err(libc::EPERM), ..healthy() };
        assert_eq!((find(&facts, "tun").state, find(&facts, "tap").state), (State::Ok, State::Warning));
        assert!(judge(&facts).iter().all(|f| f.id != "offloads"));
    }

    #[test]
    fn a_device_that_does_not_open_has_its_advice() {
        for (errno, mend) in [(libc::ENOENT, "modprobe"), (libc::EACCES, "chmod 0666"), (libc::EPERM, "DeviceAllow=")] {
            let finding = find(&Facts { tun: Err(errno), ..healthy() }, "tun");
            assert_eq!(finding.state, State::Missing);
            assert!(finding.mend.clone().unwrap().contains(mend), "{finding:?}");
        }
    }

    #[test]
    fn offloads_that_lack_are_named() {
        let tap = Tap { vnet_header: true, csum: true, tso: true, uso: false };
        let finding = offloads(tap);
        assert_eq!((finding.state, &*finding.found), (State::Warning, "without UDP segmentation"));
    }

    #[test]
    fn what_isolation_lacks_stops_the_start() {
        let facts = Facts {
            isolation: Err("pivot_root: no".into()),
            landlock: Err(libc::EOPNOTSUPP),
            seccomp: Err(libc::EINVAL),
            ..healthy()
        };
        for id in ["isolation", "landlock", "seccomp"] {
            let finding = find(&facts, id);
            assert_eq!(finding.state, State::Missing, "{id}");
            assert!(finding.mend.unwrap().contains("--allow-degraded"), "{id}");
        }
        assert!(find(&facts, "isolation").found.contains("pivot_root: no"));
    }

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!((version("5.10"), version("6"), version("")), (Some((5, 10)), None, None));
        assert_eq!(find(&Facts { release: "4.19.0".into(), ..healthy() }, "kernel").state, State::Warning);
        assert_eq!(find(&Facts { release: "5.10.0".into(), ..healthy() }, "kernel").state, State::Ok);
    }
}
