#!/usr/bin/env bash
# Runs a command (a pivot, say) under the witness: starts it, waits until it writes, lets it see a quiet time before and
# after, and prints its verdict. Exit code: the command's if it failed, else the witness's.
#
# usage: under-witness.sh OUT_FOLDER COMMAND [ARGUMENT…]
#   WITNESS=witness          the witness's binary
#   WITNESS_ARGUMENTS=       more arguments for it, such as "--size 3 --allow failed-write"
#   QUIET_BEFORE=5 QUIET_AFTER=10   seconds
set -euo pipefail
out=${1:?usage: under-witness.sh OUT_FOLDER COMMAND [ARGUMENT…]}
shift
mkdir -p "$out"
rm -f "$out/ready"
read -r -a arguments <<< "${WITNESS_ARGUMENTS:-}"
"${WITNESS:-witness}" --out "$out" "${arguments[@]}" 2> "$out/verdict.txt" &
witness=$!
trap 'kill -INT "$witness" 2> /dev/null || true' EXIT
until [ -e "$out/ready" ]; do
    kill -0 "$witness" 2> /dev/null || { cat "$out/verdict.txt" >&2; exit 2; }
    sleep 0.1
done
sleep "${QUIET_BEFORE:-5}"
code=0
"$@" | tee "$out/steps.jsonl" || code=$?
sleep "${QUIET_AFTER:-10}"
kill -INT "$witness"
trap - EXIT
verdict=0
wait "$witness" || verdict=$?
cat "$out/verdict.txt" >&2
[ "$code" = 0 ] || exit "$code"
exit "$verdict"
