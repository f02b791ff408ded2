#!/usr/bin/env bash
# Runs all checks of a change: format, lints, docs, each feature alone, all tests, the package.
# Installs missing tools, and reports them. Run it from any folder, as root or with sudo.
set -euo pipefail
cd "$(dirname "$0")/.."

# A fresh checkout is built once, so it needs no files for the next build. They take 4 GB.
if [ -n "${CI:-}" ]; then export CARGO_INCREMENTAL=0; fi

say() { printf '== %s\n' "$*"; }
die() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

# need COMMAND PACKAGE: installs Debian's PACKAGE if COMMAND is missing.
need() {
    command -v "$1" >/dev/null && return
    command -v apt-get >/dev/null || die "'$1' is missing: install it (Debian's package is '$2') and run this again"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "'$1' is missing: run 'apt-get install $2' as root, then this again"
        as_root=(sudo)
    fi
    say "installing $2, for '$1' is missing"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
}

# step NAME BUDGET COMMAND..: runs the command, and prints its duration beside its budget in seconds. The budgets
# are those of a quiet machine with two cores, and add up to 25 minutes. A step over its budget is reported at the end.
over=()
step() {
    local name=$1 budget=$2 start=$SECONDS took
    shift 2
    say "$name: $*"
    "$@"
    took=$((SECONDS - start))
    say "$name took $took s of $budget s"
    if [ "$took" -gt "$budget" ]; then over+=("$name"); fi
}

# The features of Cargo.toml, one a line.
features() {
    awk '/^\[/ { on = ($0 == "[features]") } on && /^[a-z]/ { print $1 }' Cargo.toml
}

# check_lib ARGUMENT..: checks the library, and fails on a warning.
check_lib() {
    local output
    output=$(cargo check --locked --quiet --lib "$@" 2>&1) && [ -z "$output" ] || die "cargo check --lib $*: $output"
}

each_feature_alone() {
    local feature
    check_lib --no-default-features
    for feature in $(features); do
        say "feature $feature"
        check_lib --no-default-features --features "$feature"
    done
}

# The package must contain the files that its tests read.
package() {
    cargo package --locked --quiet --allow-dirty
    local list vectors
    list=$(cargo package --list --allow-dirty)
    for vectors in tests/vectors/*.json; do
        grep -qxF "$vectors" <<<"$list" || die "the package lacks $vectors"
    done
}

# A 32-bit redis-server, which the backend must reject. Without one the tests report that they did not run.
redis32() {
    tests/redis32.sh target/redis32 || say "NOT TESTED: no 32-bit redis-server, see above"
}

command -v cargo >/dev/null || die "'cargo' is missing: install the current stable Rust (https://rustup.rs)"
cargo fmt --version >/dev/null 2>&1 || die "rustfmt is missing: run 'rustup component add rustfmt'"
cargo clippy --version >/dev/null 2>&1 || die "clippy is missing: run 'rustup component add clippy'"
need cc gcc
need redis-server redis-server
need chromium chromium
need chromedriver chromium-driver
need jq jq

step format 5 cargo fmt --check
step format-model 5 cargo fmt --check --manifest-path tests/model/Cargo.toml
step format-instructions 5 cargo fmt --check --manifest-path benches/instructions/Cargo.toml
step format-servers 5 cargo fmt --check --manifest-path benches/servers/Cargo.toml
step format-redis-peers 5 cargo fmt --check --manifest-path benches/redis_peers/Cargo.toml
step format-fuzz 5 cargo fmt --check --manifest-path fuzz/Cargo.toml
step msrv 5 tests/msrv.sh
step clippy 185 cargo clippy --locked --quiet --all-targets --all-features -- -D warnings
step docs 65 env RUSTDOCFLAGS='-D warnings' cargo doc --locked --quiet --no-deps --all-features
step features 170 each_feature_alone
step redis32 15 redis32
step tests 795 tests/all.sh
step servers 50 tests/servers.sh --core
step model 75 tests/model/run.sh
step instructions 90 benches/instructions/run.sh
step package 30 package
if [ ${#over[@]} -gt 0 ]; then say "OVER BUDGET: ${over[*]}"; fi
say "all good after $SECONDS s of 1500 s"
