#!/bin/bash
# Builds a root directory of Debian, for tests of programs that this machine has not, or not as new:
#     test/debian-root.sh DIRECTORY SUITE PACKAGES [FURNISH]
# leaves DIRECTORY/root with the packages that the file PACKAGES lists; FURNISH is a program that is called with
# DIRECTORY at the end, and may put more into it.
# Nothing is done where the result is there already and was built from the same files. Needs root, debootstrap and,
# unless it is there already, a mirror (SPELT_MIRROR).
set -euo pipefail

dir=${1:?usage: $0 DIRECTORY SUITE PACKAGES [FURNISH]}
suite=${2:?usage: $0 DIRECTORY SUITE PACKAGES [FURNISH]}
list=${3:?usage: $0 DIRECTORY SUITE PACKAGES [FURNISH]}
furnish=${4:-}
mirror=${SPELT_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9
stamp=$(cat "$0" "$list" ${furnish:+"$furnish"} <(echo "$suite") | sha256sum)
if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi
if ! command -v debootstrap >/dev/null; then
    echo "debootstrap is missing: run \`apt-get install debootstrap\` first." >&2
    exit 1
fi
rm -rf "$dir/stamp" "$dir/root"
root=$dir/root

echo "Building $root from $mirror $suite; this takes some minutes, once." >&2
# Whatever ends this script ends what it has started.
setpriv --pdeathsig=TERM timeout 1200 debootstrap --variant=minbase --keyring="$keyring" "$suite" "$root" "$mirror" \
    >"$dir/debootstrap.log" 2>&1 || {
    tail -n 20 "$dir/debootstrap.log" >&2
    exit 1
}

# No service is started in the root directory, and no process of ours stays behind.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
printf 'deb %s %s main\n' "$mirror" "$suite" >"$root/etc/apt/sources.list"
cat >"$root/etc/apt/apt.conf.d/90root" <<'CONF'
APT::Install-Recommends "false";
Acquire::Languages "none";
# The mirror may be a snapshot; what it signed is still checked.
Acquire::Check-Valid-Until "false";
Dpkg::Options { "--force-confdef"; "--path-exclude=/usr/share/doc/*"; "--path-exclude=/usr/share/man/*"; };
Dpkg::Use-Pty "0";
CONF
cp /etc/resolv.conf /etc/hosts "$root/etc/"
mapfile -t packages < <(grep -v '^#' "$list")
setpriv --pdeathsig=KILL unshare --mount --pid --fork --kill-child timeout 1200 sh -c 'mount -t proc proc "$1/proc" && root=$1 && shift &&
    chroot "$root" apt-get -q update && chroot "$root" apt-get -q install -y --no-install-recommends "$@"' \
    sh "$root" "${packages[@]}" </dev/null >"$dir/install.log" 2>&1 || {
    tail -n 20 "$dir/install.log" >&2
    exit 1
}

if [ -n "$furnish" ]; then
    "$furnish" "$dir"
fi
printf '%s\n' "$stamp" >"$dir/stamp"
