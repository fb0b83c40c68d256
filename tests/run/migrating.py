#!/usr/bin/env python3
"""Runs the code of src/docs/comparison.md and src/docs/api_gateway.md. See migrating.sh.

    ISSUER_BIN=… VERIFY_BIN=… python3 migrating.py FOLDER

FOLDER has aws-jwt-verify in its node_modules.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from processes import Issuer

PAGE = Path("src/docs/comparison.md").read_text(encoding="utf-8")
API_GATEWAY = Path("src/docs/api_gateway.md").read_text(encoding="utf-8")
CLIENT = "5a1b2c3d4e5f6g7h8i9j0k1l2m"
POOL = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_TestIssuer"
NOW = int(time.time())

# The code of the page, with keys in memory and a fixed clock. It makes no request.
DRIVER = """
import { readFileSync } from "node:fs";
import { check, verifier } from "./before.mjs";

const { jwks, now, tokens } = JSON.parse(readFileSync(0, "utf8"));
Date.now = () => now * 1000;
verifier.cacheJwks(jwks);
for (const token of tokens) {
  console.log(await check(token).then(() => "accepts", (error) => `rejects ${error.name}`));
}
"""

counts = {True: 0, False: 0}


def expect(what, expected, actual, details=""):
    is_ok = actual == expected
    counts[is_ok] += 1
    if is_ok:
        print(f"ok - {what}")
    else:
        print(f"FAIL - {what}\n    expected: {expected}\n    actual:   {actual}\n{details}")


def run(command, text=None):
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=540)


class StillIssuer(Issuer):
    """Signs tokens with fixed times, for a pool with a realistic name."""

    def jwks(self):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return json.load(opener.open(self.jwks_url, timeout=10))

    def token(self, client=CLIENT, **claims):
        usual = {"iss": POOL, "scope": "activity/write", "iat": NOW - 9, "exp": NOW + 60}
        return super().token(client, **{**usual, **claims})


def tokens(issuer):
    """Returns the token of each row of the table."""
    return {
        "valid, with one of the scopes": issuer.token(),
        "without any of the scopes": issuer.token(scope="activity/read"),
        "of another client": issuer.token("another"),
        "an ID token": issuer.token(token_use="id", aud=CLIENT),
        "of another pool": issuer.token(iss=POOL + "2"),
        "expired a second ago": issuer.token(exp=NOW - 1),
        "at the exact second of `exp`": issuer.token(exp=NOW),
        "`nbf` a second from now": issuer.token(nbf=NOW + 1),
        "an `aud`, and none is required": issuer.token(aud="https://api.example.com"),
        "sender-constrained (`cnf`)": issuer.token(cnf={"jkt": "a"}),
        "with base64 padding at its end": issuer.token() + "==",
    }


def table(page, title):
    """Returns the cells of the table with this first line."""
    lines = page.partition(title + "\n")[2].splitlines()[1:]
    end = next(at for at, line in enumerate(lines) if not line.startswith("| "))
    return [line.strip("| ").split(" | ") for line in lines[:end]]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def compare_verdicts(folder, issuer):
    rows = table(PAGE, "| token | aws-jwt-verify | here |")
    made, jwks = tokens(issuer), issuer.jwks()
    expect("each row of the table has a token", [row[0] for row in rows], list(made))

    (before,) = blocks(PAGE, "js")
    (folder / "before.mjs").write_text(before, encoding="utf-8")
    (folder / "driver.mjs").write_text(DRIVER, encoding="utf-8")
    (folder / "jwks.json").write_text(json.dumps(jwks), encoding="utf-8")
    given = json.dumps({"jwks": jwks, "now": NOW, "tokens": list(made.values())})
    there = run(["node", str(folder / "driver.mjs")], given)
    scopes = re.search(r"scope: (\[.*?\])", before)[1]
    options = [option for scope in json.loads(scopes) for option in ("--scope", scope)]
    here = run(
        [os.environ["VERIFY_BIN"], "--jwks", str(folder / "jwks.json"), "--issuer", POOL]
        + ["--client-id", CLIENT, "--now", str(NOW), *options],
        "\n".join(made.values()),
    )
    there_said, here_said = there.stdout.splitlines(), here.stdout.splitlines()
    expect("aws-jwt-verify verified each token", len(made), len(there_said), there.stderr)
    expect("the example verified each token", len(made), len(here_said), here.stderr)
    for (row, *expected), there_said, here_said in zip(rows, there_said, here_said):
        here_word = here_said.split()[0]
        here_word = {"accept": "accepts", "refuse": "rejects"}.get(here_word, here_word)
        actual = [there_said.split()[0], here_word]
        expect(row, expected, actual, f"    there: {there_said}\n    here:  {here_said}")
    return sum(row[1] != row[2] for row in rows), len(rows)


def lint(folder, name, fragment):
    """Returns the resources of a template whose other references are parameters."""
    defined = set(re.findall(r"^(\w+):$", fragment, re.MULTILINE))
    others = sorted(set(re.findall(r"!Ref (\w+)", fragment)) - defined)
    parameters = "".join(f"  {other}:\n    Type: String\n" for other in others)
    indented = re.sub(r"^(?=.)", "  ", fragment, flags=re.MULTILINE)
    template = folder / "template.yaml"
    template.write_text(f"Parameters:\n{parameters}Resources:\n{indented}", encoding="utf-8")
    # In the same virtual environment as this Python.
    linter = Path(sys.executable).with_name("cfn-lint")
    linted = run([str(linter), "--regions", "us-east-1", "--", str(template)])
    what = f"cfn-lint has no objection to the template of {name}"
    expect(what, 0, linted.returncode, linted.stdout + linted.stderr)


def main():
    folder = Path(sys.argv[1])
    tested = run(["cargo", "test", "-p", "migration"])
    for name, verdict in re.findall(r"^test (\S+) \.\.\. (\w+)$", tested.stdout, re.MULTILINE):
        expect(f"other layers: {name.replace('_', ' ')}", "ok", verdict)
    expect("other layers: all tests ran", 0, tested.returncode, tested.stderr + tested.stdout)

    with StillIssuer(os.environ["ISSUER_BIN"]) as issuer:
        different, compared = compare_verdicts(folder, issuer)

    fragments = blocks(API_GATEWAY, "yaml")
    for name, fragment in zip(["a REST API", "an HTTP API"], fragments, strict=True):
        lint(folder, name, fragment)

    print(f"\naws-jwt-verify and this crate decide {different} of {compared} tokens differently")
    print(f"{counts[True]} passed, {counts[False]} failed")
    sys.exit(counts[False] > 0)


main()
