#!/usr/bin/env bash
# The whole story on one machine: a control plane on one boot etcd, the pivot into the cluster's own etcd, the hand-over, a tour, and a
# power cut of all nodes. Takes the bed away at the end, also after Ctrl-C; KEEP=1 leaves it.
set -euo pipefail
cd "$(dirname "$0")/.."
bed=${BED:?run this by \`make demo\`}
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
clean_up() {
    code=$?
    trap - EXIT INT TERM
    if [ "${KEEP:-}" = 1 ]; then
        say "the bed stays up: export KUBECONFIG=$PWD/target/bed/admin.kubeconfig PATH=$PWD/target/bed/bin:\$PATH; make bed-down takes it away"
    else
        say "taking the bed away"
        "$bed" down || true
    fi
    exit "$code"
}
say "1. ${BED_NODES:-3} nodes, a temporary control plane on one boot etcd (the first run builds Kubernetes: about 7 min)"
# A bed that is in use is refused here, before there is anything to clean up; after Ctrl-C `up` cleans up itself.
"$bed" up || { code=$?; echo "the bed was not made; make bed-down takes away what is left of it" >&2; exit "$code"; }
trap clean_up EXIT INT TERM
export KUBECONFIG=$PWD/target/bed/admin.kubeconfig PATH=$PWD/target/bed/bin:$PATH
say "2. the operator: kubectl apply -k deploy"
"$bed" install
kubectl -n kube-system rollout status --timeout=180s daemonset/etcd-operator-agent deployment/etcd-operator-controller
say "3. the pivot: members on the nodes take over from boot etcd"
tests/pivot.sh
say "4. the hand-over: API servers on all nodes, the temporary ones gone"
"$bed" handover
say "5. a tour"
kubectl -n kube-system get etcd -o wide
kubectl -n kube-system get etcdmembers
kubectl -n kube-system get pods -l app.kubernetes.io/name=etcd -o wide
kubectl -n kube-system logs --tail=3 -l app.kubernetes.io/name=etcd
say "6. a power cut of all nodes; nothing of the operator is needed to come back"
"$bed" power-cut --all
"$bed" start --all --wait
kubectl -n kube-system get etcd
