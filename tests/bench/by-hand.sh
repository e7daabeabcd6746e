#!/usr/bin/env bash
# The pivot without an operator: what a careful human would type, on the bed. The operator's figures are read beside
# these, and a witness that sees nothing wrong with BLUNT=1 is blind.
#
# usage: by-hand.sh [BED_JSON]         (default target/bed/bed.json; the bed must stand just before the pivot)
#   SIZE=3            members at the end
#   SEATS="cp1 cp2"   the nodes that get one (default: the first SIZE of the bed)
#   PARALLEL=1        add all learners before the first starts, instead of one after the other (etcd waits 5 s between)
#   CAREFUL=1         a snapshot of boot first, and the gate before boot goes: a write and a read through each member, equal hashes
#   WAIT_CLIENTS=1    before boot goes, wait until the API servers hold as many sockets to each new member as to boot
#   CLIENTS_LIMIT=145 but no longer than this many seconds (gRPC's longest reconnect backoff)
#   BLUNT=1           don't wait for clients nor move the leader: kill boot, then remove it
#   MOVE_LEADER=1     with BLUNT=1: move the leader all the same. What is left to see then are the channels that still sit
#                     in reconnect backoff: use PARALLEL=1 and an API server that is a minute old or more
# Prints one JSON line per step: seconds since the start, wall clock, step.
set -euo pipefail

bed_json=${1:-target/bed/bed.json}
size=${SIZE:-3}
for program in jq openssl nsenter ss ip; do
    command -v "$program" > /dev/null || { echo "by-hand.sh: $program is missing (Debian packages jq, openssl, util-linux, iproute2)" >&2; exit 2; }
done
[ -r "$bed_json" ] || { echo "by-hand.sh: $bed_json cannot be read: is a bed up?" >&2; exit 2; }
bed=$(cd "$(dirname "$bed_json")" && pwd)
etcdctl=$bed/bin/etcdctl
field() { jq -re "$1" "$bed_json"; }
boot_node=$(field .boot.node)
boot_url=$(field .boot.clientEndpoint)
boot_port=${boot_url##*:}
read -r -a seats <<< "${SEATS:-$(field '[.nodes[].name] | .[0:'"$size"'] | join(" ")')}"
[ "${#seats[@]}" = "$size" ] || { echo "by-hand.sh: SIZE=$size but ${#seats[@]} nodes: ${seats[*]}" >&2; exit 2; }
if [ "${BLUNT:-}" = 1 ] && [ "$size" -lt 2 ]; then
    echo "by-hand.sh: BLUNT=1 needs SIZE=2 or more: killing one of two voters leaves no quorum to remove it" >&2; exit 2
fi
ETCDCTL_CACERT=$(field .etcdClient.ca) ETCDCTL_CERT=$(field .etcdClient.cert) ETCDCTL_KEY=$(field .etcdClient.key)
export ETCDCTL_CACERT ETCDCTL_CERT ETCDCTL_KEY ETCDCTL_DIAL_TIMEOUT=2s

started=$(date +%s%3N)
step() { # name, more JSON fields
    local now; now=$(date +%s%3N)
    printf '{"at":%d.%03d,"unixMs":%s,"step":"%s"%s}\n' $(((now - started) / 1000)) $(((now - started) % 1000)) "$now" "$1" "${2:+,$2}"
}
fail() { step failed "\"error\":$(jq -Rn --arg text "$1" '$text')"; exit 1; }
node_ip() { field ".nodes[] | select(.name == \"$1\") | .ip"; }
url() { echo "https://$(node_ip "$1"):2379"; }
peer_url() { echo "https://$(node_ip "$1"):2380"; }
manifests() { echo "$bed/nodes/$1/etc/kubernetes/manifests"; }
in_netns() { local node=$1; shift; nsenter --net="/run/netns/etcdbed-$node" "$@"; }
ctl() { "$etcdctl" --endpoints "$1" "${@:2}"; }
# Until it works, every 100 ms, 60 s at most; the last error is told.
insist() {
    local error until=$((SECONDS + 60))
    until error=$("$@" 2>&1 > /dev/null); do
        [ "$SECONDS" -lt "$until" ] || fail "$*: $error"
        sleep 0.1
    done
}
member_id() { ctl "$1" member list -w simple | awk -F', ' -v url="$2" '$4 == url {print $1}'; }

certificates() { # node: server and peer certificate from the CA that boot trusts
    local dir=$bed/nodes/$1/etc/kubernetes/pki/etcd name san
    for name in server peer; do
        san="IP:$(node_ip "$1")"
        [ "$name" = peer ] || san+=",IP:127.0.0.1,DNS:localhost"
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/by-hand-$name.key" -subj "/CN=$1" 2> /dev/null |
            openssl x509 -req -CA "$bed/pki/etcd-ca.crt" -CAkey "$bed/pki/etcd-ca.key" -set_serial "0x$(openssl rand -hex 16)" -days 30 \
                -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=%s' "$san") -out "$dir/by-hand-$name.crt" 2> /dev/null
    done
}

add_learner() { # node
    insist ctl "$boot_url" member add "$1-1" --learner --peer-urls "$(peer_url "$1")"
    step added "\"node\":\"$1\""
}

start_member() { # node: the static manifest, written in one rename
    local ip pki=/etc/kubernetes/pki/etcd cluster
    ip=$(node_ip "$1")
    # All members with a name; those added here have none yet, but ours is known from the peer URL.
    cluster=$(ctl "$boot_url" member list -w simple | awk -F', ' '{print $3 "=" $4}' | while IFS='=' read -r name peer; do
        for node in "${seats[@]}"; do [ "$peer" != "$(peer_url "$node")" ] || name=$node-1; done
        echo "$name=$peer"
    done | paste -sd,)
    jq -n --arg ip "$ip" --arg name "$1-1" --arg cluster "$cluster" --arg pki "$pki" '
        {apiVersion: "v1", kind: "Pod",
         metadata: {name: "etcd-by-hand", namespace: "kube-system", labels: {component: "etcd", tier: "control-plane"}},
         spec: {hostNetwork: true, priorityClassName: "system-node-critical", priority: 2000001000, terminationGracePeriodSeconds: 30,
                containers: [{name: "etcd", image: "etcd.test/etcd:v3.6.16", imagePullPolicy: "IfNotPresent",
                  command: ["/usr/local/bin/etcd", "--name=\($name)", "--data-dir=/var/lib/etcd/by-hand/\($name)",
                    "--listen-client-urls=https://\($ip):2379", "--advertise-client-urls=https://\($ip):2379",
                    "--listen-client-http-urls=http://127.0.0.1:2381",
                    "--listen-peer-urls=https://\($ip):2380", "--initial-advertise-peer-urls=https://\($ip):2380",
                    "--initial-cluster=\($cluster)", "--initial-cluster-state=existing", "--max-learners=9",
                    "--feature-gates=InitialCorruptCheck=false,CompactHashCheck=true",
                    "--trusted-ca-file=\($pki)/ca.crt", "--cert-file=\($pki)/by-hand-server.crt", "--key-file=\($pki)/by-hand-server.key", "--client-cert-auth=true",
                    "--peer-trusted-ca-file=\($pki)/ca.crt", "--peer-cert-file=\($pki)/by-hand-peer.crt", "--peer-key-file=\($pki)/by-hand-peer.key", "--peer-client-cert-auth=true"],
                  volumeMounts: [{name: "pki", mountPath: $pki, readOnly: true}, {name: "data", mountPath: "/var/lib/etcd"}],
                  resources: {requests: {cpu: "50m", memory: "50Mi"}}}],
                volumes: [{name: "pki", hostPath: {path: $pki, type: "Directory"}}, {name: "data", hostPath: {path: "/var/lib/etcd", type: "DirectoryOrCreate"}}]}}' \
        > "$(manifests "$1")/.etcd-by-hand.tmp"
    mv "$(manifests "$1")/.etcd-by-hand.tmp" "$(manifests "$1")/etcd-by-hand.yaml"
    step manifest "\"node\":\"$1\""
}

wait_started() { # node. Often 7 s: joining by snapshot loses etcd's first proposal to publish itself, and until then
    # it serves no client; the next attempt comes after etcd's request timeout.
    # etcdctl would wait seconds for a port that is not open yet.
    insist listening "$1" 2379
    insist ctl "$(url "$1")" --command-timeout=1s endpoint status
    step started "\"node\":\"$1\""
}

listening() { [ -n "$(in_netns "$1" ss -Hltn "( sport = :$2 )")" ] || { echo "nothing listens on port $2 of $1" >&2; return 1; }; }

promote() { # node: etcd itself refuses while the learner is behind
    insist ctl "$boot_url" member promote "$(member_id "$boot_url" "$(peer_url "$1")")"
    step promoted "\"node\":\"$1\""
}

sockets() { # node, port: established connections per remote address, ours (from the host) left out
    in_netns "$1" ss -Htn state established "( sport = :$2 )" | awk '{sub(/:[0-9]+$/, "", $4); gsub(/[][]|::ffff:/, "", $4); print $4}' |
        { grep -vxF -e "$host_ip" -e 127.0.0.1 || true; } | sort | uniq -c | awk '{print $2, $1}'
}

wait_for_clients() {
    local limit=$((SECONDS + ${CLIENTS_LIMIT:-145})) remote count node there lacking
    while :; do
        lacking=""
        while read -r remote count; do
            # Peers of the cluster come to the peer port, so whoever is here is a client.
            for node in "${seats[@]}"; do
                there=$(sockets "$node" 2379 | awk -v remote="$remote" '$1 == remote {print $2}')
                [ $((${there:-0} * 100)) -ge $((count * 95)) ] || lacking+="$remote has $count to boot and ${there:-0} to $node; "
            done
        done < <(sockets "$boot_node" "$boot_port")
        [ -n "$lacking" ] || break
        if [ "$SECONDS" -ge "$limit" ]; then step clients-not-all-seen "\"lacking\":\"$lacking\""; return; fi
        sleep 0.1
    done
    step clients-seen
}

snapshot() {
    local folder; folder=$(mktemp -d)
    ctl "$boot_url" snapshot save "$folder/boot.db" > /dev/null 2>&1 || fail "the snapshot of boot"
    rm -r "$folder"
    step snapshot
}

gate() {
    local node revision hashes
    for node in "${seats[@]}"; do
        ctl "$(url "$node")" put etcd-by-hand/gate "$node" > /dev/null && ctl "$(url "$node")" get etcd-by-hand/gate > /dev/null || fail "no write through $node"
    done
    ctl "$boot_url" del etcd-by-hand/gate > /dev/null
    revision=$(ctl "$boot_url" endpoint status -w json | jq '.[0].Status.header.revision')
    hashes=$(ctl "$rest,$boot_url" endpoint hashkv --rev "$revision" -w json | jq '[.[].HashKV.hash] | unique | length')
    [ "$hashes" = 1 ] || fail "the hashes differ at revision $revision"
    step gate
}

boot_pid() {
    local pid
    for pid in $(ip netns pids "etcdbed-$boot_node"); do
        if tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -q '/etcd .*--name=boot '; then echo "$pid"; return; fi
    done
    return 1
}

leader_off_boot() {
    local target
    target=$(member_id "$boot_url" "$(peer_url "${seats[0]}")")
    # Sent to the leader. Sequential joins leave boot as the leader; if an election moved it, there is nothing to do.
    if ctl "$boot_url" move-leader "$target" > /dev/null 2>&1; then step leader-moved "\"to\":\"${seats[0]}\""; else step leader-was-elsewhere; fi
}

host_ip=$(ip -o route get "$(node_ip "$boot_node")" | sed -n 's/.* src \([^ ]*\).*/\1/p')
step start "\"size\":$size,\"blunt\":\"${BLUNT:-0}\",\"waitClients\":\"${WAIT_CLIENTS:-0}\",\"parallel\":\"${PARALLEL:-0}\""
for node in "${seats[@]}"; do certificates "$node"; done
step certificates
# Looked up here, so that nothing slow stands between the last promotion and the end of boot.
rest=$(for node in "${seats[@]}"; do url "$node"; done | paste -sd,)
boot_id=$(ctl "$boot_url" member list -w simple | awk -F', ' '$3 == "boot" {print $1}')
pid=$(boot_pid) || fail "boot etcd's process was not found on $boot_node"
[ "${CAREFUL:-}" != 1 ] || snapshot
if [ "${PARALLEL:-}" = 1 ]; then
    for node in "${seats[@]}"; do add_learner "$node"; done
    for node in "${seats[@]}"; do start_member "$node"; done
    for node in "${seats[@]}"; do wait_started "$node"; done
fi
for node in "${seats[@]}"; do
    if [ "${PARALLEL:-}" != 1 ]; then add_learner "$node"; start_member "$node"; wait_started "$node"; fi
    # At size 1 the clients are waited for while it is still a learner, so that the window of two voters is short.
    if [ "$size" = 1 ] && [ "${WAIT_CLIENTS:-}" = 1 ]; then wait_for_clients; fi
    promote "$node"
done
if [ "$size" != 1 ] && [ "${WAIT_CLIENTS:-}" = 1 ]; then wait_for_clients; fi
[ "${CAREFUL:-}" != 1 ] || gate

if [ "${BLUNT:-}" != 1 ] || [ "${MOVE_LEADER:-}" = 1 ]; then leader_off_boot; fi
if [ "${BLUNT:-}" = 1 ]; then
    kill -KILL "$pid"
    mv "$(manifests "$boot_node")/boot-etcd.yaml" "$bed/nodes/$boot_node/etc/kubernetes/boot-etcd.yaml.away"
    step boot-killed
    insist ctl "$rest" member remove "$boot_id"
    step boot-removed
else
    kill -TERM "$pid"
    step boot-signalled
    insist ctl "$rest" member remove "$boot_id"
    step boot-removed
    mv "$(manifests "$boot_node")/boot-etcd.yaml" "$bed/nodes/$boot_node/etc/kubernetes/boot-etcd.yaml.away"
    sleep 0.3
    kill -KILL "$pid" 2> /dev/null || true
    step boot-killed
fi
ctl "$rest" endpoint health > /dev/null 2>&1 && step healthy || step unhealthy
step done
