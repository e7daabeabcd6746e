#!/usr/bin/env bash
# Runs the test suites one after the other, counts what each ran, and fails if one ran nothing.
# usage: suites.sh test|soak
#   TEST_SEED=N   seed of what is sampled (default: a new one, printed)
# A soak that was ended goes on where it was: what passed before on the very same commit, with nothing changed beside it, is not run
# again, and says when it ran. SOAK_ANEW=1 runs all of it. Its scenarios run beside the simulated World's tales, which take what CPU is left.
set -euo pipefail
tier=${1:?usage: suites.sh test|soak}
cd "$(dirname "$0")/.."
export TEST_TIER=$tier
export TEST_SEED=${TEST_SEED:-$(date +%s)}
bed=${BED:?run this by make test or make soak}
[ ! -e target/bed/state.json ] || { echo "a bed is up, which the scenarios would take away: make bed-down first" >&2; exit 1; }
echo "tier $tier, TEST_SEED=$TEST_SEED"
ETCD_BIN=$(tests/bed/go/build.sh etcd)
KUBE_BIN=$(tests/bed/go/build.sh kubernetes)
S3_BIN=$(tests/bed/go/build.sh s3)
export ETCD_BIN KUBE_BIN S3_BIN
# No test waits for it while others run beside it.
export KEEPER_FREEZE_SECONDS=${KEEPER_FREEZE_SECONDS:-60}
if [ "$tier" = soak ]; then export WORLD_CASES=${WORLD_CASES:-3000}; fi
export WORLD_SEED=${WORLD_SEED:-$TEST_SEED}

log=$(mktemp -d)
beside=
clean_up() {
    if [ -n "$beside" ]; then
        kill "$beside" 2>/dev/null || true
        # What runs at the lowest priority has a session of its own.
        [ ! -e "$log/lowest" ] || kill -- "-$(cat "$log/lowest")" 2>/dev/null || true
        wait "$beside" || true
    fi
    rm -rf "$log"
    # Left by a scenario that was ended from outside.
    [ ! -e target/bed/state.json ] || "$bed" down || true
}
trap clean_up EXIT
trap 'exit 130' INT TERM
# What passed and failed before on this commit: name, passed, failed, seconds, when.
ledger=
if [ "$tier" = soak ] && [ -z "$(git status --porcelain 2>&1)" ]; then
    mkdir -p "$BED_CACHE/soaks"
    ledger=$BED_CACHE/soaks/$(git rev-parse 'HEAD^{tree}')
    [ -z "${SOAK_ANEW:-}" ] || rm -f "$ledger"
    touch "$ledger"
    echo "tree $(basename "$ledger"), $(grep -c . "$ledger" || true) suites were run on it before (SOAK_ANEW=1 runs them again)"
fi

# name, passed, failed, seconds: one more line of the summary.
note() {
    [ -z "$ledger" ] || printf '%s\t%d\t%d\t%d\t%s\n' "$@" "$(date -u +%FT%RZ)" >>"$ledger"
    local before=
    [ -z "$ledger" ] || before=$(awk -F'\t' -v name="$1" '$1 == name && $3 > 0 {n++} END {if (n) print "  failed " n " times on this commit"}' "$ledger")
    printf '%s\t%s\t%-24s %4d passed  %d failed  %4d s%s\n' "$2" "$3" "$@" "$before" >>"$log/results"
}

# name: whether it passed before; its line of the summary then says when.
passed_before() {
    [ -n "$ledger" ] || return 1
    local line; line=$(awk -F'\t' -v name="$1" '$1 == name && $3 == 0 {last = $0} END {print last}' "$ledger")
    [ -n "$line" ] || return 1
    local name passed bad seconds when; IFS=$'\t' read -r name passed bad seconds when <<<"$line"
    local before; before=$(awk -F'\t' -v name="$1" '$1 == name && $3 > 0 {n++} END {if (n) print ", failed " n " times before"}' "$ledger")
    printf '%s\t0\t%-24s %4d passed  0 failed  %4d s  at %s%s\n' "$passed" "$name" "$passed" "$seconds" "$when" "$before" >>"$log/results"
}

# command…: with what CPU the others leave. The kernel may share it out by session first, whatever nice says.
lowest() {
    local code=0
    setsid --wait bash -c 'echo $$ >"$0"; echo 19 2>/dev/null >/proc/self/autogroup; exec nice -n 19 "$@"' "$log/lowest" "$@" || code=$?
    rm -f "$log/lowest"
    return $code
}

# name, command…: a suite of cargo tests.
suite() {
    local name=$1; shift
    ! passed_before "$name" || return 0
    printf '\n== %s: %s\n' "$name" "$*"
    local started=$SECONDS code=0
    "$@" 2>&1 | tee "$log/$name" || code=$?
    local ran
    ran=$(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed.*/\1 \2/p' "$log/$name" | awk '{p+=$1; f+=$2} END {print p+0, f+0}')
    # A scenario that is not in the sample returns at once and did not run.
    local left_out; left_out=$(grep -c ': not in this sample' "$log/$name" || true)
    local passed=$((${ran% *} - left_out)) bad=${ran#* }
    if [ "$code" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    if [ "$passed" = 0 ] && [ "$bad" = 0 ]; then echo "suite $name ran no test" >&2; bad=1; fi
    note "$name" "$passed" "$bad" $((SECONDS - started))
}

# name, command…: a check that either passes or doesn't.
check() {
    local name=$1; shift
    printf '\n== %s: %s\n' "$name" "$*"
    local started=$SECONDS
    if "$@"; then note "$name" 1 0 $((SECONDS - started)); else note "$name" 0 1 $((SECONDS - started)); fi
}

crds_are_current() {
    local out; out=$(mktemp -d)
    cargo run --locked -q -- crds --out "$out" && diff -ru --exclude=kustomization.yaml crds "$out"
    local code=$?; rm -rf "$out"; return $code
}

# Where this fails every suite would, each in its own words.
cargo build --locked -q --workspace --all-targets || { echo "the build failed" >&2; exit 1; }

check fmt cargo fmt --all --check
check clippy cargo clippy --locked -q --workspace --all-targets -- -D warnings
check crds crds_are_current
check alerts tests/monitoring.sh
suite unit cargo test --locked -q -p etcd-operator -p etcd-operator-api -p etcd-operator-etcd -p etcd-operator-client -p etcd-operator-bed -p etcd-operator-crash --lib --bins
suite docs cargo test --locked -q -p etcd-operator --test docs
# With the optimisation of the image on the bed, which is built for it anyway: ten times as fast.
suite world cargo test --locked -q --profile bed -p etcd-operator-world -p etcd-operator-plan
suite keeper cargo test --locked -q --no-fail-fast -p etcd-operator-keeper
suite backup cargo test --locked -q -p etcd-operator-backup
suite agent cargo test --locked -q -p etcd-operator-agent -- --test-threads=2
suite api cargo test --locked -q -p etcd-operator --test api --test inspect
suite witness cargo test --locked -q -p etcd-operator-witness
if [ "$tier" = soak ]; then
    (
        # Two faults, of a pivot to 3 a slice of them (make model: all); every tale. No time is measured in either.
        suite model lowest env WORLD_ALL=1 cargo test --locked -q --profile bed -p etcd-operator-world --test model -- --nocapture
        # Group by group, for the same reason as the scenarios.
        tales=(cargo test --locked -q --profile bed -p etcd-operator-world --test shipped --)
        "${tales[@]}" --list --format terse | sed -n 's/: test$//p' | while read -r tale; do
            suite "$tale" lowest env WORLD_ALL=1 "${tales[@]}" --exact "$tale" --nocapture </dev/null
        done
    ) > >(sed -u 's/^/beside: /') 2>&1 &
    beside=$!
    suite bed cargo test --locked -q --no-fail-fast -p etcd-operator-bed --features machine --tests -- --test-threads=1 --nocapture
    # One by one: where they are ended there is less to run again.
    for file in tests/scenarios/tests/*.rs; do
        file=$(basename "$file" .rs)
        suite "$file" cargo test --locked -q -p etcd-operator-scenarios --test "$file" -- --test-threads=1 --nocapture
    done
    wait "$beside"
    beside=
else
    suite scenarios cargo test --locked -q --no-fail-fast -p etcd-operator-scenarios -- --test-threads=1 --nocapture
fi

printf '\n'
cut -f3- "$log/results"
awk -F'\t' '{passed += $1; failed += $2} END {printf "\n%d passed, %d failed\n", passed, failed; exit failed > 0}' "$log/results"
