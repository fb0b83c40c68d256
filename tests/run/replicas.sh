#!/usr/bin/env bash
# Runs twenty processes of the quickstart and one issuer. Checks how often they fetch its keys, and
# what their clients see while it rotates keys, is slow or down, and while others send unknown key
# IDs.
#
#     tests/run/replicas.sh
#
# REPLICAS         the number of processes, default 20
# QUICKSTART_BIN   a built quickstart
# ISSUER_BIN       a built issuer
#
# Every check prints one line, `ok - …` or `FAIL - …`; the figures come last. Exits 1 if a check
# failed. The spread of refreshes over hours is simulated in tests/it/promises.rs, `p04` and
# `p19`; here the interval is the minimum. Needs bash 4.4 and Python 3.9.
# ci: all waits: the lines with FAIL say what was expected; tests/it simulates the promises
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
export CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1 NO_PROXY='*' no_proxy='*'

examples=${CARGO_TARGET_DIR:-target}/debug/examples
if [[ -z ${QUICKSTART_BIN:-} || -z ${ISSUER_BIN:-} ]]; then
    cargo build --quiet --example quickstart --example issuer
fi
exec python3 "$here/replicas.py" \
    "${QUICKSTART_BIN:-$examples/quickstart}" "${ISSUER_BIN:-$examples/issuer}"
