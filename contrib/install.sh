#!/bin/bash
# Installs spelt for one user, without root:
#
#     contrib/install.sh [--binary FILE] [--links[=NAME,...]] [--prefix DIR]
#     contrib/install.sh --uninstall [--prefix DIR]
#
# The program, man pages, completions and systemd user units go below ~/.local, or DIR. Without --binary the program is
# target/release/spelt, which is built if it is missing (Rust 1.90 or later). DIR/libexec/spelt gets links named passt, pasta,
# pesto and slirp4netns, for callers that are told where to look; --links puts them, or those that it names, into DIR/bin as
# well, where everybody finds them. Nothing is overwritten that this script has not installed. --uninstall removes what it has.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
prefix=$HOME/.local
binary=
links=
uninstall=false
names=(passt pasta pesto slirp4netns)

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case "$1" in
    --prefix=* | --binary=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
    --binary) binary=${2:?--binary needs a file}; shift ;;
    --links) links=${names[*]} ;;
    --links=*) links=${1#*=}; links=${links//,/ } ;;
    --uninstall) uninstall=true ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) fail "there is no option '$1'; --help lists them" ;;
    esac
    shift
done
[[ $prefix == /* ]] || prefix=$PWD/$prefix
[[ $prefix =~ ^[A-Za-z0-9/._+@-]+$ ]] || fail "the prefix '$prefix' has characters other than A-Z a-z 0-9 / . _ + @ -"
list=$prefix/share/spelt/installed

# Removes what an earlier call has installed, and the directories that are empty then.
remove() {
    local path
    while IFS= read -r path; do
        rm -f -- "$path"
        path=$(dirname "$path")
        while [[ $path == "$prefix"/* ]] && rmdir -- "$path" 2>/dev/null; do
            path=$(dirname "$path")
        done
    done < <(cat "$list"; echo "$list")
}

if "$uninstall"; then
    [ -f "$list" ] || fail "nothing of spelt is installed in '$prefix': '$list' is missing"
    remove
    echo "spelt is removed from $prefix. Instances that run now go on until they end."
    exit 0
fi

for name in $links; do
    [[ " ${names[*]} " == *" $name "* ]] || fail "--links does not know '$name'; it knows: ${names[*]}"
done
if [ -z "$binary" ]; then
    binary=$root/target/release/spelt
    if [ ! -x "$binary" ]; then
        command -v cargo >/dev/null ||
            fail "there is no cargo to build spelt with: install Rust 1.90 or later, or give --binary FILE"
        (cd "$root" && cargo build --release --bin spelt)
    fi
fi
version=$("$binary" --version) || fail "'$binary' does not run"
[[ $version == spelt\ * ]] || fail "'$binary' is not spelt: it says '$version'"

# What there is to install, a line each: mode, source or link's target, path below the prefix.
plan=$(mktemp)
trap 'rm -f "$plan"' EXIT
put() {
    printf '%s\t%s\t%s\n' "$@" >>"$plan"
}
put 755 "$binary" bin/spelt
for name in "${names[@]}"; do put link ../../bin/spelt "libexec/spelt/$name"; done
for name in $links; do put link spelt "bin/$name"; done
for page in "$root"/doc/man/*.1; do
    name=$(basename "$page" .1)
    # Those of pasta and the like are for who finds the programs by these names.
    if [[ $name == spelt* || " $links " == *" $name "* ]]; then put 644 "$page" "share/man/man1/$name.1"; fi
done
put 644 "$root/contrib/completions/spelt.bash" share/bash-completion/completions/spelt
put 644 "$root/contrib/completions/_spelt" share/zsh/site-functions/_spelt
put 644 "$root/contrib/completions/spelt.fish" share/fish/vendor_completions.d/spelt.fish
for unit in "$root"/contrib/systemd/spelt-{vm,vm-control,attach}@.*; do
    put unit "$unit" "share/systemd/user/$(basename "$unit")"
done

# An earlier version goes first, so that nothing of it stays; what is somebody else's stops us before anything is done.
while IFS=$'\t' read -r _ _ path; do
    if [ -e "$prefix/$path" ] || [ -L "$prefix/$path" ]; then
        [ -f "$list" ] && grep -qxF -- "$prefix/$path" "$list" ||
            fail "'$prefix/$path' exists, and this script has not installed it: move it away, or choose another --prefix"
    fi
done <"$plan"
[ ! -f "$list" ] || remove
mkdir -p "$(dirname "$list")"
while IFS=$'\t' read -r mode source path; do
    mkdir -p "$(dirname "$prefix/$path")"
    echo "$prefix/$path" >>"$list"
    case "$mode" in
    link) ln -s "$source" "$prefix/$path" ;;
    unit)
        sed "s,/usr/bin/spelt,$prefix/bin/spelt,g" "$source" >"$prefix/$path"
        chmod 644 "$prefix/$path"
        ;;
    *) install -m "$mode" "$source" "$prefix/$path" ;;
    esac
done <"$plan"

echo "$version is installed in $prefix."
if [[ ":$PATH:" != *":$prefix/bin:"* ]]; then
    echo "It is not in your PATH yet: add this to your shell's profile:  export PATH=\"$prefix/bin:\$PATH\""
fi
echo "Completion works in new shells of bash (with bash-completion) and fish; for zsh, put this before compinit in ~/.zshrc:"
echo "  fpath=($prefix/share/zsh/site-functions \$fpath)"
echo "What this machine allows:"
"$prefix/bin/spelt" doctor || echo "Not everything that spelt needs is there; the lines above say how to mend it." >&2
