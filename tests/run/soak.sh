#!/usr/bin/env bash
# Runs the quickstart under load for a long time, with 90 % valid and 10 % hostile requests, while
# its issuer is down, answers garbage, is slow, rotates its key and removes the old one.
#
#     tests/run/soak.sh
#
# SOAK_SECONDS     the duration, default 300; some phases take a few seconds more
# PROFILE          the cargo profile of both programs, default release
# QUICKSTART_BIN   a built quickstart
# ISSUER_BIN       a built issuer
#
# It checks each answer: status, challenge and body. The memory of the server must not grow. Every
# check prints one line, `ok - …` or `FAIL - …`; the latencies come last. Exits 1 if a check failed.
# It uses the quickstart because the example `axum` has its own issuer and does not listen on a
# port. Needs bash 4.4, Python 3.9 and wrk; as root on Debian, it installs wrk if it is missing.
# ci: all computes: the lines with FAIL say which kind of request got which answer
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
. tests/run/debian.sh
export CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1 NO_PROXY='*' no_proxy='*'

command -v wrk >/dev/null || debian_install wrk

profile=${PROFILE:-release}
examples=${CARGO_TARGET_DIR:-target}/${profile/#dev/debug}/examples
if [[ -z ${QUICKSTART_BIN:-} || -z ${ISSUER_BIN:-} ]]; then
    cargo build --quiet --profile "$profile" --example quickstart --example issuer
fi
exec python3 "$here/soak.py" \
    "${QUICKSTART_BIN:-$examples/quickstart}" "${ISSUER_BIN:-$examples/issuer}"
