#!/bin/bash
# What test/consumers/run needs in its root directory beside packages, and the archive of a container image:
#     test/consumers/furnish-root.sh DIRECTORY
# is called by test/debian-root.sh, and leaves DIRECTORY/image.tar.
set -euo pipefail
export LC_ALL=C.UTF-8

dir=${1:?usage: $0 DIRECTORY}
root=$dir/root

# The user that runs the containers. Its home and everything else that changes is made anew for every run.
chroot "$root" useradd --uid 1000 --home-dir /home/user --no-create-home --shell /bin/bash user
printf 'user:100000:65536\n' | tee "$root/etc/subuid" >"$root/etc/subgid"
mkdir -p "$root/home/user"

# The image: busybox, and socat and ip with the libraries that they load.
image=$dir/image
rm -rf "$image" "$image.tar"
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
tar --numeric-owner --owner=0 --group=0 -C "$image" -cf "$image.tar" .
