#!/usr/bin/env bash
# Mutation tests of the two pure tables, the planner and the keeper's start table: each change that cargo-mutants makes to them must fail
# one of their own unit tests. None is exempt. One that no test can tell from the original goes into .cargo/mutants.toml, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo mutants --version > /dev/null 2>&1 || {
    echo "cargo-mutants is missing; get it by: cargo install cargo-mutants --locked" >&2; exit 1
}
out=$PWD/target/mutants
# Not the target directory of the other builds: the mutants are built from a copy of the checkout, which Cargo cannot tell from the
# checkout itself, so that the next build would take the last mutant for the real thing.
export CARGO_TARGET_DIR=$out/build
mkdir -p "$out"
failed=0 summary=()

# file: its lines; none where cargo mutants did not come that far.
lines() { if [ -e "$1" ]; then wc -l < "$1"; else echo 0; fi; }

# name, argument…: mutates what the arguments select.
part() {
    local name=$1; shift
    local code=0
    printf '\n== %s: cargo mutants %s\n' "$name" "$*"
    cargo mutants --output "$out/$name" --jobs 1 "$@" || code=$?
    local found=$out/$name/mutants.out
    local caught missed unviable
    # A mutant that hangs its test was found out as well.
    caught=$(($(lines "$found/caught.txt") + $(lines "$found/timeout.txt")))
    missed=$(lines "$found/missed.txt") unviable=$(lines "$found/unviable.txt")
    summary+=("$name: $((caught + missed + unviable)) mutants, $caught caught, $missed missed, $unviable unviable")
    # 2: some were missed; 3: some hung. All else is a run that says nothing of the tests, and so is one that mutated nothing.
    case $code in 0 | 2 | 3) ;; *) failed=1; summary+=("$name: cargo mutants ended with $code") ;; esac
    if [ "$caught" = 0 ] || [ "$missed" != 0 ]; then failed=1; fi
}

part plan --package etcd-operator-plan
# Only the unit tests: the others need a real etcd.
part keeper --package etcd-operator-keeper --file src/keeper/table.rs -- --lib

printf '\n'
printf '%s\n' "${summary[@]}"
[ "$failed" = 0 ] || { echo "a mutant survived, or a part did not run; see target/mutants/*/mutants.out" >&2; exit 1; }
