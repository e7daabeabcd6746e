#!/usr/bin/env bash
# `etcd-operator snapshot save` beside the same by hand: `etcdctl snapshot save`, `zstd` with the same level and one thread, fsync. Ours also reads what it
# wrote to its end. Alternating, the median of RUNS=3, on a database of GB=4. Prints times, their ratio, and the largest resident set of ours.
# usage: backup.sh (by `make bench-backup`)
set -euo pipefail
cd "$(dirname "$0")/../.."
gb=${GB:-4} runs=${RUNS:-3}
etcd_bin=$(tests/bed/go/build.sh etcd)
echo "building the operator as the bed's image has it ..."
cargo build --locked -q --profile bed -p etcd-operator
operator=${CARGO_TARGET_DIR:-target}/bed/etcd-operator
dir=$(mktemp -d)
etcd=
clean_up() { [ -z "$etcd" ] || { kill "$etcd" 2> /dev/null || true; wait "$etcd" 2> /dev/null || true; }; rm -rf "$dir"; }
trap clean_up EXIT
trap 'exit 130' INT TERM

cd "$dir"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=bench -days 1 2> /dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -out tls.csr -subj /CN=bench 2> /dev/null
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -out tls.crt \
    -extfile <(printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth') 2> /dev/null
port=$((20000 + RANDOM % 10000))
url=https://127.0.0.1:$port
"$etcd_bin/etcd" --data-dir=data --listen-client-urls="$url" --advertise-client-urls="$url" --listen-peer-urls="http://127.0.0.1:$((port + 1))" \
    --initial-advertise-peer-urls="http://127.0.0.1:$((port + 1))" --initial-cluster="default=http://127.0.0.1:$((port + 1))" \
    --cert-file=tls.crt --key-file=tls.key --trusted-ca-file=ca.crt --client-cert-auth --quota-backend-bytes=$((8 << 30)) \
    --unsafe-no-fsync --snapshot-count=200 > etcd.log 2>&1 &
etcd=$!
ctl() { "$etcd_bin/etcdctl" --endpoints="$url" --cacert=ca.crt --cert=tls.crt --key=tls.key --command-timeout=30s "$@"; }
until ctl endpoint health > /dev/null 2>&1; do sleep 0.2; kill -0 "$etcd" || { cat etcd.log >&2; exit 1; }; done

echo "writing $gb GB, of which about a quarter cannot be compressed ..."
text=$(seq -f '{"kind":"ConfigMap","metadata":{"name":"object-%g","namespace":"default"},"data":{"key":"value"}}' 8000 | head -c 750000)
for ((n = 0; n < gb * 1000; n++)); do
    { head -c 187500 /dev/urandom | base64 -w0; printf '%s' "$text"; } | ctl put "ballast/$n" > /dev/null
    [ $((n % 250)) != 249 ] || echo "  $((n + 1)) of $((gb * 1000)) MB"
done

now() { date +%s%3N; }
by_hand() {
    ctl snapshot save hand.db > /dev/null 2>&1
    zstd -q -3 -T1 hand.db -o hand.db.zst
    sync hand.db.zst
    rm hand.db
}
ours() {
    mkdir ours
    command time -f %M -a -o rss "$operator" snapshot save ours --endpoint "$url" --cacert ca.crt --cert tls.crt --key tls.key > saved 2> said || { cat said >&2; exit 1; }
}
for ((run = 1; run <= runs; run++)); do
    for what in by_hand ours; do
        rm -rf ours hand.db hand.db.zst
        began=$(now)
        "$what"
        echo $(($(now) - began)) >> "$what.ms"
        echo "  run $run, $what: $(tail -1 "$what.ms") ms"
    done
done
median() { sort -n "$1" | awk '{a[NR]=$1} END {print a[int((NR+1)/2)]}'; }
hand=$(median by_hand.ms) own=$(median ours.ms)
cat saved
echo "by hand $hand ms, ours with its proof $own ms; ratio $(awk "BEGIN {printf \"%.2f\", $hand / $own}"); largest resident set of ours $(($(sort -n rss | tail -1) / 1024)) MiB"
