#!/usr/bin/env bash
# Checks the alert rules with promtool (built from its Go module, once per version: some minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
# Without the service discoveries, of which no rule needs one.
promtool=$(GOFLAGS=-tags=remove_all_sd tests/bed/go/build.sh prometheus)/promtool
"$promtool" check rules deploy/monitoring/rules.yaml
"$promtool" test rules deploy/monitoring/rules.test.yaml
