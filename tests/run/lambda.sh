#!/usr/bin/env bash
# Runs the function of examples/lambda as AWS Lambda would, with a Runtime API of its own: events of
# API Gateway, function URLs and load balancers, cold starts, and hours of being frozen.
#
#     tests/run/lambda.sh
#
# LAMBDA_BIN  a function that is built already
# ISSUER_BIN  an example `issuer` that is built already
#
# Every check prints one line, `ok - …` or `FAIL - …`; the figures come last. Exits 1 if any check
# failed. Needs bash 4.4, Python 3 and libfaketime; as root on Debian it installs the latter.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/run/debian.sh
mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
# A setting of the caller's shell is no setting of a check.
export CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1

# Prints where it is.
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

# It ends its processes itself, whatever ends it.
exec python3 tests/run/lambda_check.py "$function" "$issuer" "$(libfaketime)"
