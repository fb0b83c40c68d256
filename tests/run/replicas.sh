#!/usr/bin/env bash
# Twenty processes of the quickstart and one issuer: how often they ask it for its keys, and what
# their clients see while it rotates, is slow or down, and while others send unknown key IDs.
#
#     tests/run/replicas.sh
#
# REPLICAS         how many, 20 if it is not set
# QUICKSTART_BIN   a quickstart that is built already
# ISSUER_BIN       an issuer that is built already
#
# Every check prints one line, `ok - …` or `FAIL - …`; the figures come last. Exits 1 if any
# failed. How refreshes spread out over hours is simulated in tests/it/promises.rs, `p04` and
# `p19`; here the interval is the shortest that can be set. Needs bash 4.4 and Python 3.9.
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
