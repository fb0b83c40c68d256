#!/usr/bin/env bash
# Puts Caddy, which asks the forward_auth example by its `forward_auth`, before a service, sends
# requests good and bad, and checks the answers and what arrives at the service.
#
#     tests/run/caddy.sh
#
# PYTHON   a Python 3, instead of `python3`; it needs no package
#
# Every check prints one line, `ok - …` or `FAIL - …`; the last lines are figures. Exits 1 if any
# failed. All that it starts listens on free ports of 127.0.0.1. As root on Debian it installs caddy
# if that is missing.
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
