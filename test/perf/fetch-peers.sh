#!/bin/bash
# Fetches the newest passt/pasta of Debian sid into a directory of its own, without touching the system's packages:
#     test/perf/fetch-peers.sh DIRECTORY
# and prints the path of the pasta to give to `test/perf/run.py --peer newest=PATH`; passt and pesto are beside it. They are built
# against a newer libc than a stable release has, so that libc comes along and the programs are told to load it.
set -euo pipefail

dir=${1:?usage: $0 DIRECTORY}
mkdir -p "$dir"
dir=$(realpath "$dir")
mkdir -p "$dir"/apt/{lists/partial,cache/archives/partial} "$dir/root"

cat >"$dir/apt/sources.list" <<END
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${SPELT_MIRROR:-http://deb.debian.org/debian} sid main
END
apt=(-o "Dir::Etc::SourceList=$dir/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$dir/apt/lists" -o "Dir::Cache=$dir/apt/cache" -o Acquire::Languages=none
    -o APT::Sandbox::User=root -o Debug::NoLocking=1)

apt-get "${apt[@]}" -qq update >&2
(cd "$dir" && apt-get "${apt[@]}" -qq download passt libc6 >&2)
for package in "$dir"/*.deb; do
    dpkg-deb -x "$package" "$dir/root"
done

lib=$(dirname "$(find "$dir/root" -name 'ld-linux-*' -path '*-linux-gnu/*' | head -n 1)")
loader=$(find "$lib" -name 'ld-linux-*' | head -n 1)
# pasta is a link to passt, which replaces itself by passt.avx2 where the processor has it.
for program in "$dir"/root/usr/bin/{passt,passt.avx2,pesto}; do
    [ -f "$program" ] || continue
    patchelf --set-interpreter "$loader" --set-rpath "$lib" "$program"
done
"$dir/root/usr/bin/pasta" --version >&2
echo "$dir/root/usr/bin/pasta"
