"""Running programs in a root directory that debian-root.sh made, under an overlay that is gone with them."""

# pivot_root instead of chroot: the kernel gives no user namespace to a process in a chroot.
BEGIN = r"""
root=$1
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work" none /mnt/root
cd /mnt/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=1777 none tmp
cat /etc/resolv.conf >etc/resolv.conf
printf '127.0.0.1 localhost\n::1 localhost\n' >etc/hosts
"""
PIVOT = r"""
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
"""


def script(before, after):
    """For `sh -euc`, in a mount namespace of its own; the first argument is the root directory. `before` is done in the
    directory and still sees the outside; `after` is done inside and ends with `exec chroot / ...`."""
    return f"{BEGIN}{before}{PIVOT}{after}"
