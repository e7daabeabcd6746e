# The static binary and nothing else. Build it first:
#   RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target x86_64-unknown-linux-gnu
FROM scratch
COPY target/x86_64-unknown-linux-gnu/release/etcd-operator /etcd-operator
ENTRYPOINT ["/etcd-operator"]
