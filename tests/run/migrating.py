#!/usr/bin/env python3
"""Runs the code of the migration section and of the page about API Gateway: compares the layers of two
other crates with ours, and aws-jwt-verify with the example `verify`, on the same tokens, and lints the
CloudFormation. Everything that is installed runs on this machine."""
# ci: all computes: a table of the page is wrong, or its code; or npm and pip have to reach their registries

import json
import re
import time
from pathlib import Path

from harness import CFN_LINT, CLIENT_ID, Issuer, build, main, node, npm, pypi, run, temporary_folder

TITLE = "| token | aws-jwt-verify | here |"
AWS_JWT_VERIFY = "aws-jwt-verify@5.2.1"
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

class StillIssuer(Issuer):
    """Signs tokens with fixed times, for a pool with a realistic name."""

    def token(self, client=CLIENT_ID, **claims):
        usual = {"iss": POOL, "scope": "activity/write", "iat": NOW - 9, "exp": NOW + 60}
        return super().token(client, **{**usual, **claims})


def tokens(issuer):
    """Returns the token of each row of the table."""
    return {
        "valid, with one of the scopes": issuer.token(),
        "without any of the scopes": issuer.token(scope="activity/read"),
        "of another client": issuer.token("another"),
        "an ID token": issuer.token(token_use="id", aud=CLIENT_ID),
        "of another pool": issuer.token(iss=POOL + "2"),
        "expired a second ago": issuer.token(exp=NOW - 1),
        "at the exact second of `exp`": issuer.token(exp=NOW),
        "`nbf` a second from now": issuer.token(nbf=NOW + 1),
        "an `aud`, and none is required": issuer.token(aud="https://api.example.com"),
        "sender-constrained (`cnf`)": issuer.token(cnf={"jkt": "a"}),
        "with base64 padding at its end": issuer.token() + "==",
    }


def page(part):
    """Returns the page of the documentation that contains this."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path("src/docs").glob("*.md"))]
    return next(text for text in texts if part in text)


def table(page, title):
    """Returns the cells of the table with this first line."""
    lines = page.partition(title + "\n")[2].splitlines()[1:]
    end = next(at for at, line in enumerate(lines) if not line.startswith("| "))
    return [line.strip("| ").split(" | ") for line in lines[:end]]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def compare_verdicts(checks, programs, folder, issuer):
    text = page(TITLE)
    rows = table(text, TITLE)
    made, jwks = tokens(issuer), issuer.jwks()
    checks.equal("each row of the table has a token", [row[0] for row in rows], list(made))

    (before,) = blocks(text, "js")
    # Node.js looks for packages next to the program.
    (folder / "node_modules").symlink_to(npm(AWS_JWT_VERIFY) / "node_modules")
    (folder / "before.mjs").write_text(before, encoding="utf-8")
    (folder / "driver.mjs").write_text(DRIVER, encoding="utf-8")
    (folder / "jwks.json").write_text(json.dumps(jwks), encoding="utf-8")
    given = json.dumps({"jwks": jwks, "now": NOW, "tokens": list(made.values())})
    there = run(node() / "node", folder / "driver.mjs", input=given)
    scopes = re.search(r"scope: (\[.*?\])", before)[1]
    options = ["--issuer", POOL, "--client-id", CLIENT_ID, "--now", NOW]
    options += [option for scope in json.loads(scopes) for option in ("--scope", scope)]
    keys = folder / "jwks.json"
    here = run(programs["verify"], "--jwks", keys, *options, input="\n".join(made.values()))
    there_said, here_said = there.stdout.splitlines(), here.stdout.splitlines()
    said = len(there_said), len(here_said)
    checks.equal("both verified each token", (len(made), len(made)), said) or print(there.stderr)
    for (row, *expected), there_said, here_said in zip(rows, there_said, here_said):
        here_word = here_said.split()[0]
        here_word = {"accept": "accepts", "refuse": "rejects"}.get(here_word, here_word)
        actual = [there_said.split()[0], here_word]
        details = f"expected: {expected}\n    there: {there_said}\n    here:  {here_said}"
        checks.that(expected == actual, row, details)
    different = sum(row[1] != row[2] for row in rows)
    checks.figure("tokens that both decide differently", f"{different} of {len(rows)}")


def lint(checks, folder, name, fragment):
    """Lints a template whose other references are parameters."""
    defined = set(re.findall(r"^(\w+):$", fragment, re.MULTILINE))
    others = sorted(set(re.findall(r"!Ref (\w+)", fragment)) - defined)
    parameters = "".join(f"  {other}:\n    Type: String\n" for other in others)
    indented = re.sub(r"^(?=.)", "  ", fragment, flags=re.MULTILINE)
    template = folder / "template.yaml"
    template.write_text(f"Parameters:\n{parameters}Resources:\n{indented}", encoding="utf-8")
    linter = pypi(CFN_LINT).program("cfn-lint")
    linted = run(linter, "--regions", "us-east-1", "--", template)
    what = f"cfn-lint has no objection to the template of {name}"
    checks.equal(what, (0, ""), (linted.returncode, linted.stdout + linted.stderr))


def script(checks):
    tested = run("cargo", "test", "-p", "migration")
    print(tested.stderr)
    for name, verdict in re.findall(r"^test (\S+) \.\.\. (\w+)$", tested.stdout, re.MULTILINE):
        checks.equal(f"other layers: {name.replace('_', ' ')}", "ok", verdict)
    what = "other layers: all tests ran"
    checks.equal(what, 0, tested.returncode) or print(tested.stdout)

    programs = build("issuer", "verify")
    with temporary_folder() as folder:
        with StillIssuer(programs["issuer"]) as issuer:
            compare_verdicts(checks, programs, folder, issuer)
        fragments = blocks(page("Type: AWS::ApiGateway::Authorizer"), "yaml")
        checks.that(len(fragments) >= 2, "there are templates of a REST API and an HTTP API")
        for fragment in fragments:
            lint(checks, folder, re.search(r"Type: (\S+)", fragment)[1], fragment)


main(script)
