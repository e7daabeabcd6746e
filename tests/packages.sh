#!/usr/bin/env bash
# Installs the Debian packages that the build and the tests need, and those that are named, and says which. Go and Rust are the reader's own.
set -euo pipefail
# libprotobuf-dev: google/protobuf/*.proto, which protobuf-compiler only recommends.
packages=(gcc libc6-dev protobuf-compiler libprotobuf-dev containerd runc haproxy iptables iproute2 containernetworking-plugins conntrack curl jq openssl socat util-linux procps "$@")
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed || missing+=("$package")
done
for program in go cargo; do
    command -v "$program" > /dev/null || { echo "$program is missing: install Go 1.26 or newer and Rust (rustup)" >&2; exit 1; }
done
# go.mod's version; GOTOOLCHAIN=auto of an older Go would fetch it, which not every machine allows.
have=$(go env GOVERSION 2> /dev/null || true)
if [ "$(printf 'go1.26\n%s\n' "$have" | sort -V | head -n 1)" != go1.26 ]; then
    echo "Go 1.26 or newer is needed, and this is ${have:-unknown} (Debian's own is too old): see go.dev/doc/install" >&2; exit 1
fi
[ "${#missing[@]}" = 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "missing Debian packages: ${missing[*]}; run as root, or: apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "installing Debian packages: ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
# Debian starts these; the bed brings its own.
for service in containerd haproxy; do
    if command -v systemctl > /dev/null && systemctl is-active -q "$service" 2> /dev/null; then
        case " ${missing[*]} " in *" $service "*) systemctl disable -q --now "$service" || true ;; esac
    fi
done
