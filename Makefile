# Everything a stranger needs. Each target says what it does and installs what is missing (Debian packages, as root).
#   BED_NODES=3   nodes of the bed (1 to 5)      BOOT_NODE=cp1   where boot etcd and the temporary control plane run
#   SIZE=3        members after the pivot        KEEP=1          make demo leaves the bed up
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

BED_NODES ?= 3
BOOT_NODE ?= cp1
SIZE ?= $(BED_NODES)
export BED_NODES BOOT_NODE SIZE

# Build caches live outside the checkout, keyed by content, so that a fresh clone finds what an older one built.
export BED_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/etcd-operator-bed
export CARGO_TARGET_DIR ?= $(BED_CACHE)/target-$(shell cat Cargo.lock rust-toolchain.toml | sha256sum | cut -c1-12)

BED = $(CARGO_TARGET_DIR)/debug/bed
BIN = target/bed/bin

.PHONY: help demo bed pivot handover bed-down test soak model bench bench-backup mutants crds build packages

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

packages:
	@tests/packages.sh
	@tests/claim-target.sh

build: packages
	@cargo build --locked -p etcd-operator-bed -p etcd-operator-witness --bins

demo: build ## From nothing: bed, pivot, hand-over, a tour, a power cut of all nodes; then tears down (KEEP=1 leaves it)
	@BED=$(BED) tests/demo.sh

bed: build ## A control plane on one boot etcd, with the operator installed, just before the pivot
	@$(BED) up && $(BED) install

pivot: ## The operator's pivot on that bed
	@tests/pivot.sh

handover: ## API servers, controller managers and schedulers on all nodes, the temporary ones gone
	@target/bed/bin/bed handover

bed-down: ## Take the bed away
	@[ ! -x target/bed/bin/bed ] || target/bed/bin/bed down

test: build ## What CI runs: all suites, a seeded sample of the slow ones
	@BED=$(BED) tests/suites.sh test

soak: build ## All suites in full
	@BED=$(BED) tests/suites.sh soak

model: packages ## The model checker on every pair of faults in a pivot and in a change of size, to the end: an hour or two on 2 cores
	@WORLD_ALL=1 WORLD_SLICES=$(or $(WORLD_SLICES),all) cargo test --locked -q --profile bed -p etcd-operator-world --test model -- --nocapture

bench: build ## The operator's pivot beside the same by hand
	@BED=$(BED) tests/bench/run.sh

bench-backup: packages ## Backups beside the same by hand; GB=4
	@tests/packages.sh zstd time
	@tests/bench/backup.sh

mutants: ## Mutation tests of the planner and of the keeper's start table; needs cargo-mutants
	@tests/mutants.sh

crds: ## Generate crds/ from the Rust types
	@cargo run --locked -q -- crds --out crds
