#!/usr/bin/env bash
# A long run of the quickstart under load, nine of ten requests good and one of ten hostile, while
# its issuer is taken down, answers garbage, is slow, rotates its key and withdraws the old one.
#
#     tests/run/soak.sh
#
# SOAK_SECONDS     how long, 300 if it is not set; some seconds more where an issuer has to be asked
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
export CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1 NO_PROXY='*' no_proxy='*'

if ! command -v wrk >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    install=(apt-get install --yes --quiet --no-install-recommends wrk)
    if ((EUID != 0)) || ! command -v apt-get >/dev/null ||
        ! { "${install[@]}" >/dev/null 2>&1 ||
            { apt-get update --quiet >/dev/null && "${install[@]}" >/dev/null; }; }; then
        echo "wrk is missing: apt-get install wrk" >&2
        exit 1
    fi
fi

examples=${CARGO_TARGET_DIR:-target}/release/examples
if [[ -z ${QUICKSTART_BIN:-} || -z ${ISSUER_BIN:-} ]]; then
    cargo build --quiet --release --example quickstart --example issuer
fi
exec python3 "$here/soak.py" \
    "${QUICKSTART_BIN:-$examples/quickstart}" "${ISSUER_BIN:-$examples/issuer}"
