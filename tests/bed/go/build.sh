#!/usr/bin/env bash
# Builds the Go programs that the bed runs (Kubernetes, etcd) from their modules, and prints the folder that holds them.
# The folder is keyed by the content of go.mod, go.sum and this script, so that a second checkout finds what the first one built.
# usage: build.sh kubernetes|etcd
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
what=${1:?usage: build.sh kubernetes|etcd}
cd "$here/$what"

cache=${BED_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/etcd-operator-bed}
key=$(cat go.mod go.sum "$here/build.sh" | sha256sum | cut -c1-16)
out=$cache/go/$what-$key
if [ -f "$out/.complete" ]; then echo "$out"; exit 0; fi

mkdir -p "$cache/go"
exec 9>"$cache/go/$what.lock"
flock 9
if [ -f "$out/.complete" ]; then echo "$out"; exit 0; fi

ldflags="-s -w"
if [ "$what" = kubernetes ]; then
    version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
    minor=${version#v1.}; minor=${minor%%.*}
    for variable in gitVersion=$version gitMajor=1 gitMinor=$minor gitTreeState=clean; do
        ldflags+=" -X k8s.io/component-base/version.$variable -X k8s.io/client-go/pkg/version.$variable"
    done
fi
echo "building $what (Kubernetes takes about 7 min on 2 cores, etcd one; once per version) ..." >&2
started=$SECONDS
( while sleep 30; do echo "  still building $what, $((SECONDS - started)) s" >&2; done ) 9>&- &
ticker=$!
trap 'kill "$ticker" 2>/dev/null || true' EXIT

tmp=$(mktemp -d "$cache/go/.$what.XXXXXX")
CGO_ENABLED=0 go build -trimpath -ldflags "$ldflags" -o "$tmp/" tool
# The etcd server's package is named after its module: call it what the world calls it.
[ ! -e "$tmp/server" ] || mv "$tmp/server" "$tmp/etcd"
touch "$tmp/.complete"
chmod 755 "$tmp"
rm -rf "$out"
mv "$tmp" "$out"
echo "$out"
