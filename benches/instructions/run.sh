#!/usr/bin/env bash
# Counts the instructions of each path by callgrind and compares them with counts.txt.
#
#   benches/instructions/run.sh            fails if a path takes over 3 % more instructions than counts.txt says
#   benches/instructions/run.sh --update   writes counts.txt anew
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="$PWD/../../target/instructions"
readonly repetitions=10000

cargo build --quiet --release
binary=$CARGO_TARGET_DIR/release/sluice-instructions

# count PATH: the instructions of one repetition.
count() {
    local total
    total=$(valgrind --tool=callgrind --collect-atstart=no --toggle-collect=measured \
        --callgrind-out-file=/dev/null "$binary" "$1" 2>&1 | sed -n 's/.*Collected : \([0-9]*\).*/\1/p')
    echo $((total / repetitions))
}
for p in "$@"; do echo "$p $(count $p)"; done
