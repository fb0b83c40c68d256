#!/usr/bin/env bash
# A long run of the quickstart under load, nine of ten requests good and one of ten hostile, while
# its issuer is taken down, answers garbage, is slow, rotates its key and withdraws the old one.
#
#     tests/run/soak.sh
#
# SOAK_SECONDS     how long, 300 if it is not set; some seconds more where an issuer has to be asked
# PROFILE          of cargo, how both are built, release if it is not set
# QUICKSTART_BIN   a quickstart that is built already
# ISSUER_BIN       an issuer that is built already
#
# Each answer is checked: status, challenge and body. The memory of the server must stay flat.
# Every check prints one line, `ok - …` or `FAIL - …`; the latencies come last. Exits 1 if any
# failed. It is the quickstart and not the example `axum`, which brings an issuer of its own and
# listens nowhere. Needs bash 4.4, Python 3.9 and wrk; as root on Debian it installs wrk if it is
# missing.
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
