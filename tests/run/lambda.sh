#!/usr/bin/env bash
# Runs the function of examples/lambda as AWS Lambda would, with its own Runtime API: events of API
# Gateway, function URLs and load balancers, cold starts, and hours in the frozen state.
#
#     tests/run/lambda.sh
#
# LAMBDA_BIN  a built function
# ISSUER_BIN  a built example `issuer`
#
# Every check prints one line, `ok - …` or `FAIL - …`; the figures come last. Exits 1 if a check
# failed. Needs bash 4.4, Python 3 and libfaketime; as root on Debian, it installs libfaketime.
# ci: all computes: the lines with FAIL say which event got which answer
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/run/debian.sh
mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
# Settings of the caller's shell must not affect the checks.
export CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1

# Prints its path.
libfaketime() {
    local library
    for library in /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib/faketime/libfaketimeMT.so.1; do
        if [[ -e $library ]]; then
            echo "$library"
            return
        fi
    done
    return 1
}

libfaketime >/dev/null || debian_install libfaketime

function=${LAMBDA_BIN:-}
if [[ -z $function ]]; then
    cargo build --quiet --locked -p tower-cognito-lambda
    function=$target/debug/bootstrap
fi
issuer=${ISSUER_BIN:-}
if [[ -z $issuer ]]; then
    cargo build --quiet --example issuer
    issuer=$target/debug/examples/issuer
fi

# The script stops its processes itself, even after a signal.
exec python3 tests/run/lambda_check.py "$function" "$issuer" "$(libfaketime)"
