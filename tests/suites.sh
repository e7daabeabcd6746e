#!/usr/bin/env bash
# Runs the test suites one after the other, counts what each ran, and fails if one ran nothing.
# usage: suites.sh test|soak
#   TEST_SEED=N   seed of what is sampled (default: a new one, printed)
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
export ETCD_BIN KUBE_BIN
# No test waits for it while others run beside it.
export KEEPER_FREEZE_SECONDS=${KEEPER_FREEZE_SECONDS:-60}
if [ "$tier" = soak ]; then export WORLD_CASES=${WORLD_CASES:-3000}; fi
export WORLD_SEED=${WORLD_SEED:-$TEST_SEED}

log=$(mktemp -d)
clean_up() {
    rm -rf "$log"
    # Left by a scenario that was ended from outside.
    [ ! -e target/bed/state.json ] || "$bed" down || true
}
trap clean_up EXIT
trap 'exit 130' INT TERM
total=0 failed=0 summary=()

# name, command…: a suite of cargo tests.
suite() {
    local name=$1; shift
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
    total=$((total + passed)) failed=$((failed + bad))
    summary+=("$(printf '%-10s %4d passed  %d failed  %4d s' "$name" "$passed" "$bad" $((SECONDS - started)))")
}

# name, command…: a check that either passes or doesn't.
check() {
    local name=$1; shift
    printf '\n== %s: %s\n' "$name" "$*"
    if "$@"; then total=$((total + 1)); summary+=("$(printf '%-10s    1 passed' "$name")")
    else failed=$((failed + 1)); summary+=("$(printf '%-10s    1 FAILED' "$name")"); fi
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
suite agent cargo test --locked -q -p etcd-operator-agent -- --test-threads=2
suite api cargo test --locked -q -p etcd-operator --test api
suite witness cargo test --locked -q -p etcd-operator-witness
if [ "$tier" = soak ]; then
    # Two faults, of a pivot to 3 a slice of them (make model: all); every tale.
    suite model env WORLD_ALL=1 cargo test --locked -q --profile bed -p etcd-operator-world --test model -- --nocapture
    suite tales env WORLD_ALL=1 cargo test --locked -q --profile bed -p etcd-operator-world --test shipped -- --nocapture --test-threads=1
    suite bed cargo test --locked -q --no-fail-fast -p etcd-operator-bed --features machine --tests -- --test-threads=1 --nocapture
fi
suite scenarios cargo test --locked -q --no-fail-fast -p etcd-operator-scenarios -- --test-threads=1 --nocapture

printf '\n'
printf '%s\n' "${summary[@]}"
printf '\n%d passed, %d failed\n' "$total" "$failed"
[ "$failed" = 0 ]
