#!/usr/bin/env bash
# Runs Caddy with the forward_auth example (`forward_auth`) in front of a service, sends valid and
# invalid requests, and checks the answers and the requests that reach the service.
#
#     tests/run/caddy.sh
#
# PYTHON   a Python 3, default `python3`; it needs no packages
#
# Every check prints one line, `ok - …` or `FAIL - …`; the last lines are figures. Exits 1 if a
# check failed. All processes listen on free ports of 127.0.0.1. As root on Debian, it installs
# caddy if it is missing.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/run/debian.sh
export CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

command -v caddy >/dev/null || debian_install caddy

cargo build --quiet --example issuer
cargo build --quiet -p forward_auth
programs=${CARGO_TARGET_DIR:-target}/debug
exec "${PYTHON:-python3}" tests/run/forward_auth.py caddy "$programs"
