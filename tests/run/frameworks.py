#!/usr/bin/env python3
"""Compiles the recipes of examples/frameworks, calls each, and compares the README with them."""
# ci: all computes: a recipe does not compile or answers otherwise, or the README shows other lines

import re
import subprocess
import textwrap

from harness import ROOT, main
from results import Table

FOLDER = ROOT / "examples/frameworks"
# By name of the test: what the recipe is.
RECIPES = {
    "actix_web": "an extractor, without Tower",
    "salvo": "the layers, with `.compat()`",
    "poem": "`RequireToken::verify_headers` around an endpoint",
    "warp": "the layers around `warp::service`",
    "utoipa": "the layers, and the security scheme of the description",
    "aide": "the layers; the extractor in `NoApi`",
    "tower_governor": "inside `RequireToken`, keyed by `client_id`",
    "async_graphql": "the layers, and a handler that passes the token to the schema",
}


def versions():
    """Returns the version of each package in Cargo.lock that has only one."""
    text = (ROOT / "Cargo.lock").read_text()
    pairs = re.findall(r'^name = "(.*)"\nversion = "(.*)"$', text, re.MULTILINE)
    return {name: version for name, version in pairs}


def script(checks):
    command = ["cargo", "test", "--locked", "--package", "frameworks"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    found = dict(re.findall(r"^test (\w+) \.\.\. (\w+)$", done.stdout, re.MULTILINE))
    if not found:
        print(done.stdout)
    checks.equal("every recipe has a test", set(RECIPES), set(found))
    table = Table("frameworks", ["recipe", "valid token, none, another client's, no scope", "file"])
    known = versions()
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, recipe in RECIPES.items():
        checks.that(found.get(name) == "ok", f"{name}: 200, 401, 401 and 403", done.stdout)
        package = name.replace("_", "-") if name != "tower_governor" else name
        version = known[package]
        file = f"`examples/frameworks/{name}.rs`"
        table.row(package, version, [recipe, "200, 401, 401, 403", file])
        checks.that(f"{package}** {version}" in readme or f"{package} {version}" in readme,
                    f"README.md names the version of {package}", version)  # fmt: skip

    for name, block in re.findall(r"^## (\S+) .*?^```rust\n(.*?)^```", readme, re.M | re.S):
        file = (FOLDER / f"{name.replace('-', '_')}.rs").read_text(encoding="utf-8")
        lines = block.splitlines()
        checks.that(
            any(textwrap.indent(block, " " * width) in file for width in (0, 4, 8)),
            f"README.md shows lines of {name}",
        )
        checks.at_most(f"README.md, {name}: lines", 10, len(lines))
    table.check(checks, __file__)


main(script)
