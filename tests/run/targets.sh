#!/usr/bin/env bash
# Compiles the library for the targets of its users.
#
#     tests/run/targets.sh
#
# Linux on ARM and with musl: links examples/verify with zig as the C compiler and linker, and runs
# the one for this machine. macOS and Windows: `cargo check`; for Windows, a stub replaces the C
# compiler, because cargo checks only Rust code. Needs Python 3. Prints NOT CHECKED for a target
# whose standard library rustup cannot download.
# ci: all computes: the library does not compile for a target that its users deploy to
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
tools=$target/zig
export CARGO_TARGET_DIR=$target/targets CARGO_TERM_COLOR=never
# Optimizing the C code would take most of the time and is not needed here.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0

if [[ ! -x $tools/bin/cargo-zigbuild ]]; then
    python3 -m venv --clear "$tools"
    "$tools/bin/pip" install --quiet --only-binary=:all: 'cargo-zigbuild==0.24.1' 'ziglang==0.17.1'
fi
export PATH="$tools/bin:$PATH"

has_target() {
    rustup target list --installed | grep --quiet --line-regexp "$1" ||
        rustup target add "$1" >/dev/null 2>&1 || {
        echo "NOT CHECKED: $1: rustup cannot reach its standard library"
        return 1
    }
}

for triple in aarch64-unknown-linux-gnu x86_64-unknown-linux-musl aarch64-unknown-linux-musl; do
    has_target "$triple" || continue
    cargo zigbuild --quiet --target "$triple" --example verify
    echo "ok - $triple: examples/verify is linked"
done

musl=$CARGO_TARGET_DIR/x86_64-unknown-linux-musl/debug/examples/verify
if [[ $(uname -m) == x86_64 && -x $musl ]]; then
    work=$(mktemp --directory)
    trap 'rm -rf "$work"' EXIT
    # A token of the test vectors, its keys, and when it was valid.
    python3 - "$work" <<'PYTHON'
import json, pathlib, sys

work = pathlib.Path(sys.argv[1])
vectors = json.loads(pathlib.Path("tests/vectors/tokens.json").read_text())
(work / "keys.json").write_text(json.dumps(vectors["jwks"]))
(work / "token").write_text(vectors["tokens"][0]["token"] + "\n")
pool = vectors["user_pool_id"]
issuer = f"https://cognito-idp.{pool.split('_')[0]}.amazonaws.com/{pool}"
options = ["--issuer", issuer, "--client-id", vectors["client_id"], "--now", str(vectors["now"])]
(work / "options").write_text("\n".join(options) + "\n")
PYTHON
    mapfile -t options <"$work/options"
    verdict=$("$musl" --jwks "$work/keys.json" "${options[@]}" <"$work/token")
    [[ $verdict == accept\ * ]] || {
        echo "FAIL - x86_64-unknown-linux-musl: examples/verify says: $verdict"
        exit 1
    }
    echo 'ok - x86_64-unknown-linux-musl: examples/verify runs, and accepts a token'
fi

if has_target aarch64-apple-darwin; then
    cargo zigbuild --quiet --target aarch64-apple-darwin --lib --all-features
    echo 'ok - aarch64-apple-darwin: the library compiles'
fi

if has_target x86_64-pc-windows-msvc; then
    # aws-lc-sys needs Microsoft's C compiler and headers, which are missing here. Skip the C code.
    stub=$CARGO_TARGET_DIR/stub-cl
    mkdir -p "$stub"
    printf '#!/bin/sh\nfor a; do case $a in -Fo*|-out:*|/out:*) : >"${a#*[o:]}";; esac; done\n' >"$stub/cl"
    chmod +x "$stub/cl"
    if CC_x86_64_pc_windows_msvc=$stub/cl AR_x86_64_pc_windows_msvc=$stub/cl \
        AWS_LC_SYS_PREBUILT_NASM=1 \
        cargo check --quiet --target x86_64-pc-windows-msvc --lib --all-features; then
        echo 'ok - x86_64-pc-windows-msvc: the Rust code is checked'
    else
        echo 'NOT CHECKED: x86_64-pc-windows-msvc: the C code of aws-lc-sys needs its own compiler'
    fi
fi
