#!/usr/bin/env bash
# An etcd and an API server on loopback, to try the witness against without a bed.
# Writes bed.json and admin.kubeconfig in the bed's format into the folder.
# `again` starts both once more, on the data and keys that are there.
# usage: loopback.sh up|down|again DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
verb=${1:?usage: loopback.sh up|down|again DIR}
mkdir -p "${2:?usage: loopback.sh up|down|again DIR}"
dir=$(cd "$2" && pwd)
base=${LOOPBACK_PORT:-23790}
etcd_port=$base peer_port=$((base + 1)) api_port=$((base + 2))

down() {
    local name
    for name in kube-apiserver etcd; do
        [ -f "$dir/$name.pid" ] || continue
        local pid; pid=$(cat "$dir/$name.pid")
        # Only what was started here: the process must still run with this folder on its command line.
        if tr '\0' ' ' 2>/dev/null < "/proc/$pid/cmdline" | grep -qF "$dir"; then
            kill "$pid"
            for _ in $(seq 100); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
            [ ! -d "/proc/$pid" ] || kill -9 "$pid"
        fi
        rm -f "$dir/$name.pid"
    done
}

# A process that was killed may hold its port and its data for a moment: what is started beside it would end at once.
wait_until_gone() {
    local name pid
    for name in kube-apiserver etcd; do
        pid=$(cat "$dir/$name.pid" 2>/dev/null) || continue
        # A zombie has given up everything but its number.
        for _ in $(seq 300); do grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$pid/status" || break; sleep 0.1; done
    done
}

certificate() { # name, subject, SANs
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/$1.key" -out "$dir/$1.csr" -subj "$2" 2>/dev/null
    openssl x509 -req -in "$dir/$1.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 2 -out "$dir/$1.crt" \
        -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\n%s' "${3:+subjectAltName=$3}") 2>/dev/null
}

up() {
    down
    rm -rf "$dir/data"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout "$dir/ca.key" -out "$dir/ca.crt" -subj /CN=loopback 2>/dev/null
    certificate server /CN=server "IP:127.0.0.1,DNS:localhost"
    certificate admin /O=system:masters/CN=admin ""
    openssl genrsa -out "$dir/service-account.key" 2048 2>/dev/null
    start
}

start() {
    local etcd kubernetes
    etcd=$("$here/../bed/go/build.sh" etcd)
    kubernetes=$("$here/../bed/go/build.sh" kubernetes)
    "$etcd/etcd" --name boot --data-dir "$dir/data" \
        --listen-client-urls "https://127.0.0.1:$etcd_port" --advertise-client-urls "https://127.0.0.1:$etcd_port" \
        --listen-peer-urls "https://127.0.0.1:$peer_port" --initial-advertise-peer-urls "https://127.0.0.1:$peer_port" \
        --initial-cluster "boot=https://127.0.0.1:$peer_port" \
        --cert-file "$dir/server.crt" --key-file "$dir/server.key" --trusted-ca-file "$dir/ca.crt" --client-cert-auth \
        --peer-cert-file "$dir/server.crt" --peer-key-file "$dir/server.key" --peer-trusted-ca-file "$dir/ca.crt" --peer-client-cert-auth \
        > "$dir/etcd.log" 2>&1 < /dev/null &
    echo $! > "$dir/etcd.pid"
    "$kubernetes/kube-apiserver" --etcd-servers "https://127.0.0.1:$etcd_port" \
        --etcd-cafile "$dir/ca.crt" --etcd-certfile "$dir/admin.crt" --etcd-keyfile "$dir/admin.key" \
        --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --endpoint-reconciler-type none --secure-port "$api_port" \
        --tls-cert-file "$dir/server.crt" --tls-private-key-file "$dir/server.key" --client-ca-file "$dir/ca.crt" \
        --authorization-mode RBAC --service-cluster-ip-range 10.255.0.0/24 --service-account-issuer https://loopback.etcd.test \
        --service-account-key-file "$dir/service-account.key" --service-account-signing-key-file "$dir/service-account.key" \
        > "$dir/kube-apiserver.log" 2>&1 < /dev/null &
    echo $! > "$dir/kube-apiserver.pid"

    cat > "$dir/admin.kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: loopback
contexts: [{name: loopback, context: {cluster: loopback, user: admin}}]
clusters: [{name: loopback, cluster: {server: "https://127.0.0.1:$api_port", certificate-authority: ca.crt}}]
users: [{name: admin, user: {client-certificate: admin.crt, client-key: admin.key}}]
YAML
    cat > "$dir/bed.json" <<JSON
{"version": "1", "nodes": [], "boot": {"node": "loopback", "clientEndpoint": "https://127.0.0.1:$etcd_port"},
 "etcdClient": {"ca": "ca.crt", "cert": "admin.crt", "key": "admin.key"}, "kubeconfig": "admin.kubeconfig"}
JSON
    for _ in $(seq 300); do
        if curl -fsS --cacert "$dir/ca.crt" --cert "$dir/admin.crt" --key "$dir/admin.key" "https://127.0.0.1:$api_port/readyz" > /dev/null 2>&1; then return; fi
        sleep 0.2
    done
    echo "the API server is not ready after 60 s; the last words of it and of its etcd:" >&2
    tail -n 5 "$dir/kube-apiserver.log" "$dir/etcd.log" >&2
    down
    exit 1
}

case $verb in
    up) up ;;
    down) down ;;
    again) wait_until_gone; start ;;
    *) echo "usage: loopback.sh up|down|again DIR" >&2; exit 2 ;;
esac
