#!/bin/bash
# What test/package/run needs in its root directory beside packages:
#     test/package/furnish-root.sh DIRECTORY
# is called by test/debian-root.sh. It leaves Debian's own passt and slirp4netns as packages in /packages, a user, and an image.
set -euo pipefail
export LC_ALL=C.UTF-8

dir=${1:?usage: $0 DIRECTORY}
root=$dir/root

chroot "$root" useradd --uid 1000 --home-dir /home/user --create-home --shell /bin/bash user
printf 'user:100000:65536\n' | tee "$root/etc/subuid" >"$root/etc/subgid"

mkdir -p "$root/packages"
chroot "$root" sh -c 'cd /packages && apt-get -q -o APT::Sandbox::User=root download passt slirp4netns' \
    >"$dir/download.log" 2>&1
# They are to be installed with no network.
setpriv --pdeathsig=KILL timeout 300 chroot "$root" sh -c 'apt-get -q install -y --no-install-recommends libslirp0' \
    </dev/null >>"$dir/download.log" 2>&1

image=$dir/image
rm -rf "$image"
mkdir -p "$image"/{bin,dev,etc,proc,sys,tmp,run}
cp "$root/usr/bin/busybox" "$image/bin/busybox"
chroot "$root" busybox --list | while read -r name; do
    [ "$name" = busybox ] || ln -s busybox "$image/bin/$name"
done
tar --numeric-owner --owner=0 --group=0 -C "$image" -cf "$root/packages/image.tar" .
