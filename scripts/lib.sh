# What several scripts share: where things are, how they speak, and how they leave nothing running.
# Sourced by the others, never run by itself.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=${CAUSEWAY_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/causeway}

# Progress and complaints go to stderr, so that a script's stdout can be piped.
say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Starts a command in the background, in a process group of its own: a dev server forks helpers, and ending
# the group ends them all. Its id is in $started.
children=()
start() {
    set -m
    "$@" &
    started=$!
    set +m
    children+=("$started")
}

# Ends what `start` started: asked first, forced after five seconds.
stop_children() {
    local group
    for group in ${children[@]+"${children[@]}"}; do
        kill -TERM -- "-$group" 2>/dev/null || continue
        for _ in {1..50}; do
            kill -0 -- "-$group" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-$group" 2>/dev/null || true
        wait "$group" 2>/dev/null || true
    done
    children=()
}

# Reads env.sh, which scripts/setup writes: PATH with the tools on it and the variables that name them.
use_tools() {
    [ -f "$tools/env.sh" ] || die "the tools are not installed: run scripts/setup"
    # shellcheck source=/dev/null
    . "$tools/env.sh"
}

# Runs a command with the Rust toolchain that can build for wasm first on its PATH.
wasm() { PATH="$CAUSEWAY_WASM_BIN:$PATH" "$@"; }
