#!/usr/bin/env bash
# The operator's pivot on the bed that `make bed` made. SIZE=3 members.
set -euo pipefail
cd "$(dirname "$0")/.."
json=target/bed/bed.json
[ -r "$json" ] || { echo "no bed: run 'make bed' first" >&2; exit 1; }
exec target/bed/bin/etcd-operator pivot \
    --kubeconfig "$(jq -r .kubeconfig "$json")" \
    --boot-endpoint "$(jq -r .boot.clientEndpoint "$json")" \
    --size "${SIZE:-3}" "$@"
