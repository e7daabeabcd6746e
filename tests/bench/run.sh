#!/usr/bin/env bash
# The operator's pivot beside the same by hand: alternating, on the same frozen bed, API server of the same age; median of RUNS=3.
# By hand with and without the wait for the clients. Prints a table, and JSON into target/bed/bench.json.
# usage: run.sh (by `make bench`)
set -euo pipefail
cd "$(dirname "$0")/../.."
bed=${BED:-${CARGO_TARGET_DIR:?run this by make bench}/debug/bed}
runs=${RUNS:-3} size=${SIZE:-3}
json=target/bed/bed.json
[ ! -e target/bed/state.json ] || { echo "a bed is up, which the benchmark would take away: make bed-down first" >&2; exit 1; }
log=$(mktemp -d)
clean_up() { "$bed" down > /dev/null 2>&1 || true; rm -rf "$log"; }
trap clean_up EXIT
trap 'exit 130' INT TERM

now() { date +%s%3N; }
fresh() {
    "$bed" down > /dev/null 2>&1 || true
    "$bed" thaw bench > "$log/thaw" 2>&1 || { cat "$log/thaw" >&2; exit 1; }
    export KUBECONFIG=$PWD/target/bed/admin.kubeconfig
    for what in daemonset/etcd-operator-agent deployment/etcd-operator-controller; do
        target/bed/bin/kubectl -n kube-system rollout status --timeout=180s "$what" > /dev/null
    done
}
measure() { # name, command…
    local name=$1 started; shift
    fresh
    started=$(now)
    "$@" > "$log/$name" 2>&1 || { cat "$log/$name" >&2; exit 1; }
    echo $(($(now) - started)) >> "$log/$name.ms"
    echo "  $name: $(tail -1 "$log/$name.ms") ms"
}
median() { sort -n "$1" | awk '{a[NR]=$1} END {print a[int((NR+1)/2)]}'; }
rss() { # process: largest resident set on any node, in KiB
    local most=0 pid node
    for node in $(jq -r '.nodes[].name' "$json"); do
        for pid in $("$bed" exec "$node" -- ps -eo pid,args | awk -v p="etcd-operator $1|/keeper $1" '$0 ~ p {print $1}'); do
            local kib; kib=$("$bed" exec "$node" -- awk '/^VmRSS/ {print $2}' "/proc/$pid/status" 2> /dev/null || echo 0)
            [ "${kib:-0}" -gt "$most" ] && most=$kib
        done
    done
    echo "$most"
}

echo "making the bed that all runs start from"
"$bed" up
"$bed" install
"$bed" freeze bench
for run in $(seq "$runs"); do
    echo "run $run of $runs"
    measure by-hand-waiting env CAREFUL=1 WAIT_CLIENTS=1 SIZE="$size" tests/bench/by-hand.sh "$json"
    measure by-hand env CAREFUL=1 SIZE="$size" tests/bench/by-hand.sh "$json"
    measure operator env SIZE="$size" tests/pivot.sh
done
controller=$(rss controller) agent=$(rss agent) keeper=$(rss keeper)
a=$(median "$log/operator.ms") b=$(median "$log/by-hand-waiting.ms") c=$(median "$log/by-hand.ms")
jq -n --argjson o "$a" --argjson w "$b" --argjson h "$c" --argjson rc "$controller" --argjson ra "$agent" --argjson rk "$keeper" \
    '{operatorMs: $o, byHandWaitingMs: $w, byHandMs: $h, ratioToByHandWaiting: ($o / $w), rssKiB: {controller: $rc, agent: $ra, keeper: $rk}}' | tee target/bed/bench.json
printf '\n%-36s %8s ms\n' "the operator (waits for clients)" "$a" "by hand, waiting for clients" "$b" "by hand, not waiting" "$c"
printf 'ratio to by hand, waiting: %s\n' "$(jq '.ratioToByHandWaiting * 100 | round / 100' target/bed/bench.json)"
