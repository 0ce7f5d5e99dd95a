# What the demonstrations have in common; they source it. They narrate: a line that begins with # explains, one that begins with
# $ is a command, and what follows is what it said.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SPELT=${SPELT_BIN:-$root/target/release/spelt}
[ -x "$SPELT" ] || { echo "$SPELT is missing: build it with 'cargo build --release'." >&2; exit 1; }
SPELT=$(realpath "$SPELT")
PORT=${PORT:-18080}
pids=()
dir=$(mktemp -d)

# Ends what was started in the background, and removes what was made.
clean_up() {
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap clean_up EXIT

# need PACKAGE:PROGRAM...: ends with a sentence if a program is missing; the package is Debian's.
need() {
    local one missing=()
    for one; do
        command -v "${one#*:}" >/dev/null || missing+=("${one%:*}")
    done
    [ ${#missing[@]} = 0 ] || { echo "Missing here: ${missing[*]} (names of Debian's packages)." >&2; exit 1; }
}

# narrate RENDITION MARK TEXT: prints it folded for a terminal, in bold or a colour. A command goes on behind a backslash.
narrate() {
    local lines=() i mark=$2 end
    mapfile -t lines < <(fold -s -w 72 <<<"$3")
    printf '\n'
    for i in "${!lines[@]}"; do
        end=
        if [ "$2" != '# ' ]; then
            [ "$i" = 0 ] || mark='    '
            [ "$i" = $((${#lines[@]} - 1)) ] || end=' \'
        fi
        printf '\033[%sm%s%s%s\033[0m\n' "$1" "$mark" "${lines[i]% }" "$end"
    done
}

say() { narrate 1 '# ' "$*"; }
show() { narrate 36 '$ ' "$*"; }
# on NAME COMMAND...: the same, with the name of a machine in front.
on() { narrate 36 "$1\$ " "${*:2}"; }
# run COMMAND...: shows it and runs it. It shows no quotes; what needs them is shown and run apart.
run() { show "$*"; "$@"; }
spelt() { "$SPELT" "$@"; }
# fails COMMAND...: runs what is to fail, and folds what it says.
fails() { if "$@" 2>&1 | fold -s -w 78; then echo "That should have failed." >&2; exit 1; fi; }

# serve PORT FILE: a web server on the loopback, ready when this returns, with FILE as its only page.
serve() {
    mkdir "$dir/www"
    cp "$2" "$dir/www/index.html"
    python3 -u -m http.server --bind 127.0.0.1 --directory "$dir/www" "$1" >"$dir/server.log" 2>&1 &
    pids+=($!)
    await "$1"
}

# await PORT: until a web server answers there on the loopback.
await() {
    python3 - "$1" <<'PYTHON'
import sys, time, urllib.error, urllib.request
for _ in range(200):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/nothing", timeout=1)
    except urllib.error.HTTPError:
        break
    except OSError:
        time.sleep(0.05)
else:
    sys.exit(f"no server answers at 127.0.0.1 port {sys.argv[1]}; if another program has it, choose a port: PORT=20000")
PYTHON
}
