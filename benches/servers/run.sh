#!/usr/bin/env bash
# Throughput, latency and CPU time of an axum server: without a limit, behind tower-sluice, and behind tower_governor;
# allowed and denied. All run in turns, ROUNDS times, for SECONDS each, under wrk with CONNECTIONS connections. It prints
# medians. The CPU time is that of the server in user space: the kernel's part and the throughput depend on the machine.
#
#   ROUNDS=5 SECONDS_EACH=5 CONNECTIONS=64 benches/servers/run.sh
#
# The server and wrk have one core each, so it needs two.
set -euo pipefail
cd "$(dirname "$0")"
rounds=${ROUNDS:-5} seconds=${SECONDS_EACH:-5} connections=${CONNECTIONS:-64}

command -v wrk >/dev/null || { echo "'wrk' is missing: install it (Debian's package is 'wrk')" >&2; exit 1; }
export CARGO_TARGET_DIR=$PWD/../../target/servers
cargo build --quiet --release
results=$(mktemp)
server=
trap 'rm -f "$results" "$results.port"; [ -z "$server" ] || kill "$server" 2>/dev/null || true' EXIT

# user_ticks: the CPU time that the server has spent in user space, in hundredths of a second.
user_ticks() { awk '{ print $14 }' "/proc/$server/stat"; }

# measure NAME: adds a line "NAME requests/s p99 denied CPU" to the results.
measure() {
    local name=$1 port output before after
    : >"$results.port"
    taskset -c 0 "$CARGO_TARGET_DIR/release/servers" "$name" >"$results.port" &
    server=$!
    for _ in $(seq 100); do
        port=$(cat "$results.port")
        [ -z "$port" ] || break
        sleep 0.1
    done
    [ -n "$port" ] || { echo "the server does not start" >&2; exit 1; }
    taskset -c 1 wrk -t1 -c"$connections" -d1 "http://127.0.0.1:$port/" >/dev/null
    before=$(user_ticks)
    output=$(taskset -c 1 wrk -t1 -c"$connections" -d"$seconds" --latency "http://127.0.0.1:$port/")
    after=$(user_ticks)
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
    awk -v name="$name" -v ticks=$((after - before)) '
        /Requests\/sec/ { rate = $2 }
        $1 == "99%" { p99 = $2; unit = p99; sub(/[0-9.]+/, "", unit); p99 += 0
                      if (unit == "ms") p99 *= 1000; if (unit == "s") p99 *= 1000000 }
        /requests in/ { all = $1 }
        /Non-2xx/ { denied = $NF }
        END { printf "%s %d %d %.3f %.2f\n", name, rate, p99, (all > 0 ? denied / all : 0), ticks * 10000 / all }' <<<"$output" >>"$results"
}

# median COLUMN NAME
median() {
    awk -v name="$2" -v column="$1" '$1 == name { print $column }' "$results" | sort -n |
        awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'
}

names="bare sluice-silent sluice-allowed governor-allowed sluice-denied governor-denied"
for _ in $(seq "$rounds"); do
    for name in $names; do measure "$name"; done
done
echo "$rounds rounds of $seconds s, $connections connections, $(wrk -v 2>&1 | awk 'NR == 1 { print $1, $2 }')"
echo
echo "| server | requests/s | p99, µs | denied | CPU, µs each |"
echo "|---|---|---|---|---|"
for name in $names; do
    echo "| $name | $(median 2 "$name") | $(median 3 "$name") | $(median 4 "$name") | $(median 5 "$name") |"
done
# A run that denies what it should allow, or allows what it should deny, shows nothing.
for name in $names; do
    awk -v denied="$(median 4 "$name")" -v name="$name" 'BEGIN {
        expected = name ~ /denied/
        if (expected ? denied < 0.99 : denied > 0) { print name ": " denied " of the requests were denied"; exit 1 } }' >&2
done
