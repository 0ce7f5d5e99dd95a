#!/bin/bash
# Builds the root directory that test/consumers/run works in, and the archive of a container image:
#     test/consumers/build-root.sh DIRECTORY SUITE
# leaves DIRECTORY/root and DIRECTORY/image.tar.
# Nothing is done where the result is there already and was built from the same list of packages.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:?usage: $0 DIRECTORY SUITE}
suite=${2:?usage: $0 DIRECTORY SUITE}
mirror=${SPELT_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9
stamp=$(cat "$0" "$here/packages.txt" <(echo "$suite") | sha256sum)
if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi
if ! command -v debootstrap >/dev/null; then
    echo "debootstrap is missing: run \`apt-get install debootstrap\` first." >&2
    exit 1
fi
rm -rf "$dir/stamp" "$dir/root" "$dir/image" "$dir/image.tar"
root=$dir/root

echo "Building $root from $mirror $suite; this takes some minutes, once." >&2
timeout 1200 debootstrap --variant=minbase --keyring="$keyring" "$suite" "$root" "$mirror" \
    >"$dir/debootstrap.log" 2>&1 || {
    tail -n 20 "$dir/debootstrap.log" >&2
    exit 1
}

# No service is started in the root directory, and no process of ours stays behind.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
printf 'deb %s %s main\n' "$mirror" "$suite" >"$root/etc/apt/sources.list"
cat >"$root/etc/apt/apt.conf.d/90consumers" <<'CONF'
APT::Install-Recommends "false";
Acquire::Languages "none";
# The mirror may be a snapshot; what it signed is still checked.
Acquire::Check-Valid-Until "false";
Dpkg::Options { "--force-confdef"; "--path-exclude=/usr/share/doc/*"; "--path-exclude=/usr/share/man/*"; };
Dpkg::Use-Pty "0";
CONF
cp /etc/resolv.conf /etc/hosts "$root/etc/"
mapfile -t packages < <(grep -v '^#' "$here/packages.txt")
unshare --mount --pid --fork timeout 1200 sh -c 'mount -t proc proc "$1/proc" && root=$1 && shift &&
    chroot "$root" apt-get -q update && chroot "$root" apt-get -q install -y --no-install-recommends "$@"' \
    sh "$root" "${packages[@]}" </dev/null >"$dir/install.log" 2>&1 || {
    tail -n 20 "$dir/install.log" >&2
    exit 1
}

# The user that runs the containers. Its home and everything else that changes is made anew for every run.
chroot "$root" useradd --uid 1000 --home-dir /home/user --no-create-home --shell /bin/bash user
printf 'user:100000:65536\n' | tee "$root/etc/subuid" >"$root/etc/subgid"
mkdir -p "$root/home/user"

# The image: busybox, and socat and ip with the libraries that they load.
image=$dir/image
mkdir -p "$image"/{bin,dev,etc,proc,sys,tmp,root,run,home/podman,usr/bin}
cp "$root/usr/bin/busybox" "$image/bin/busybox"
chroot "$root" busybox --list | while read -r name; do
    case "$name" in
    busybox | ip | socat) ;;
    *) ln -s busybox "$image/bin/$name" ;;
    esac
done
copy_with_libraries() {
    local program=$1 library
    install -D "$root$program" "$image$program"
    chroot "$root" ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        install -D "$root$library" "$image$library"
    done
}
copy_with_libraries /usr/bin/socat
copy_with_libraries /usr/bin/ip
ln -s /usr/bin/ip "$image/bin/ip"
chmod 1777 "$image/tmp"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$image/etc/passwd"
printf 'root:x:0:\n' >"$image/etc/group"
tar --numeric-owner --owner=0 --group=0 -C "$image" -cf "$dir/image.tar" .

printf '%s\n' "$stamp" >"$dir/stamp"
