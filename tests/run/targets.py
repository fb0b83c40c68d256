#!/usr/bin/env python3
"""Compiles the library for the targets of its users.

Linux on ARM and with musl: links examples/verify with zig as the C compiler and linker, and runs the one
for this machine. macOS and Windows: `cargo check`; for Windows, a stub replaces the C compiler, because
cargo checks only Rust code.
"""
# ci: all computes: the library does not compile for a target that its users deploy to

import json
import os
import platform
import subprocess
from pathlib import Path

from harness import TARGET, main, pypi, run, temporary_folder

# It writes empty files instead of objects.
STUB = """#!/bin/sh
for a; do case $a in -Fo*|-out:*|/out:*) : >"${a#*[o:]}";; esac; done
"""


def cargo(*arguments, **settings):
    """Returns whether it succeeds. Its output is shown."""
    tools = pypi("cargo-zigbuild==0.24.1", "ziglang==0.17.1").python.parent
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **settings}
    return subprocess.run(["cargo", *arguments], env=environment).returncode == 0


def has_target(checks, triple):
    if triple in run("rustup", "target", "list", "--installed").stdout.split():
        return True
    for _ in range(2):
        if run("rustup", "target", "add", triple).returncode == 0:
            return True
    checks.not_checked(triple, "rustup cannot reach its standard library")
    return False


def verdict(program):
    """Returns what a program says about a token of the test vectors."""
    vectors = json.loads(Path("tests/vectors/vectors.json").read_text(encoding="utf-8"))
    rules = vectors["rules"]["cognito"][0]
    issuer = f"https://cognito-idp.{rules['pool'].split('_')[0]}.amazonaws.com/{rules['pool']}"
    pieces = vectors["categories"]["cognito shapes"][0]["token"]
    token = "".join(vectors["texts"][piece] if isinstance(piece, int) else piece for piece in pieces)
    with temporary_folder() as folder:
        (folder / "keys.json").write_text(json.dumps({"keys": vectors["key_sets"]["cognito"][0]}))
        options = ["--jwks", folder / "keys.json", "--issuer", issuer]
        options += ["--client-id", rules["clients"][0], "--now", vectors["now"]]
        return run(program, *options, input=token + "\n").stdout


def script(checks):
    arm, musl = "aarch64-unknown-linux-gnu", "x86_64-unknown-linux-musl"
    for triple in (arm, musl, "aarch64-unknown-linux-musl"):
        if has_target(checks, triple):
            linked = cargo("zigbuild", "--target", triple, "--example", "verify")
            checks.that(linked, f"{triple}: examples/verify is linked")
            if linked and triple == musl and platform.machine() == "x86_64":
                said = verdict(TARGET / triple / "debug/examples/verify")
                what = f"{triple}: examples/verify runs, and accepts a token"
                checks.that(said.startswith("accept "), what, said)

    library = ["--lib", "--all-features", "--target"]
    if has_target(checks, "aarch64-apple-darwin"):
        compiles = cargo("zigbuild", *library, "aarch64-apple-darwin")
        checks.that(compiles, "aarch64-apple-darwin: the library compiles")

    if has_target(checks, "x86_64-pc-windows-msvc"):
        # aws-lc-sys needs Microsoft's C compiler and headers, which are missing here.
        stub = TARGET / "stub-cl"
        stub.write_text(STUB)
        stub.chmod(0o755)
        settings = {"CC_x86_64_pc_windows_msvc": str(stub), "AR_x86_64_pc_windows_msvc": str(stub)}
        settings["AWS_LC_SYS_PREBUILT_NASM"] = "1"
        if cargo("check", *library, "x86_64-pc-windows-msvc", **settings):
            checks.that(True, "x86_64-pc-windows-msvc: the Rust code is checked")
        else:
            why = "the C code of aws-lc-sys needs its own compiler"
            checks.not_checked("x86_64-pc-windows-msvc", why)


main(script)
