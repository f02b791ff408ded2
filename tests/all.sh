#!/usr/bin/env bash
# Runs all tests with all features, two test binaries at a time, since most of them wait for servers and timers.
# `cargo test --all-features` runs the same tests one binary after the other.
set -euo pipefail
cd "$(dirname "$0")/.."

# The binaries that take longest, which start first, and those that need both cores for their servers. So do the tests
# of a distant server, which leave 50 ms of 250 to the machine.
readonly first='/(browser|semaphore|redis_failures)-[0-9a-f]+$' alone='/redis_topologies-[0-9a-f]+$'

# run BINARY ARGUMENT..: prints the summary, or everything if a test fails.
run() {
    local log
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        printf '%s: %s\n' "$(basename "$1")" "$(grep '^test result' "$log" || cat "$log")"
        rm "$log"
        return
    fi
    printf '%s FAILED:\n' "$1"
    cat "$log"
    rm "$log"
    return 1
}
export -f run

cargo test --locked --quiet --all-features --no-run
binaries=$(cargo test --locked --quiet --all-features --no-run --message-format json |
    jq -r 'select(.reason == "compiler-artifact" and .profile.test and .executable) | .executable')
[ -n "$binaries" ] || { echo "there is no test binary" >&2; exit 1; }
export CARGO_MANIFEST_DIR=$PWD
{ grep -E "$first" <<<"$binaries"; grep -vE "$first|$alone" <<<"$binaries"; } | xargs -P 2 -I BINARY bash -c 'run BINARY --skip distance::'
grep -E "$alone" <<<"$binaries" | xargs -I BINARY bash -c 'run BINARY'
grep -E '/(blocking|redis_failures)-[0-9a-f]+$' <<<"$binaries" | xargs -I BINARY bash -c 'run BINARY distance::'
cargo test --locked --quiet --all-features --doc
