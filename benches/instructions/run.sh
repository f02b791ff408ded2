#!/usr/bin/env bash
# Counts the instructions of each path of a request by callgrind, and compares them with counts.txt.
#
#   benches/instructions/run.sh            fails if a path takes over 3 % more instructions than counts.txt says
#   benches/instructions/run.sh --update   writes counts.txt anew
#   benches/instructions/run.sh PATH..     prints the counts of these paths
#
# Another compiler or other versions of dependencies change the counts. Then they are printed and not compared.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TARGET_DIR="$PWD/../../target/instructions"
readonly repetitions=10000 tolerance=3 # percent

command -v valgrind >/dev/null || {
    echo "NOT COMPARED: valgrind is missing (Debian's package is 'valgrind')"
    exit 0
}
cargo build --locked --quiet --release
binary=$CARGO_TARGET_DIR/release/sluice-instructions

# count PATH: the instructions of one repetition.
count() {
    local total
    total=$(valgrind --tool=callgrind --collect-atstart=no --toggle-collect=measured \
        --callgrind-out-file=/dev/null "$binary" "$1" 2>&1 | sed -n 's/.*Collected : \([0-9]*\).*/\1/p')
    echo $((total / repetitions))
}

# What the counts depend on beside our sources.
built_with() {
    rustc --version | cut -d' ' -f2
    valgrind --version
    cargo tree --prefix none --edges normal | grep -v -e '(/' -e '(\*)' | LC_ALL=C sort -u | sha256sum | cut -c1-16
}

if [ $# -gt 0 ] && [ "$1" != --update ]; then
    for path; do printf '%-28s %6d\n' "$path" "$(count "$path")"; done
    exit
fi
built=$(built_with | paste -sd' ')
if [ "${1-}" = --update ]; then
    {
        echo "# built with $built"
        "$binary" --list | while read -r path; do printf '%-28s %6d\n' "$path" "$(count "$path")"; done
    } >counts.new
    mv counts.new counts.txt
    exit
fi
comparable=true
grep -qxF "# built with $built" counts.txt || {
    comparable=false
    echo "NOT COMPARED: counts.txt is of another compiler or of other dependencies (now $built)"
}
slower=0
while read -r path known; do
    now=$(count "$path")
    printf '%-28s %6d, was %6d\n' "$path" "$now" "$known"
    if $comparable && [ $((now * 100)) -gt $((known * (100 + tolerance))) ]; then
        echo "    over $tolerance % more instructions than in counts.txt"
        slower=$((slower + 1))
    fi
done < <(grep -v '^#' counts.txt)
[ "$slower" -eq 0 ] || {
    echo "$slower paths got slower: find the cause, or run benches/instructions/run.sh --update" >&2
    exit 1
}
