#!/usr/bin/env python3
"""Lints the CloudFormation template of examples/infrastructure, and compares the names in the template
and its README with those in the code. Nothing is deployed."""
# ci: all waits: fix examples/infrastructure: the lines above say where; or pip has to reach PyPI

import json
import re
from pathlib import Path

from harness import CFN_LINT, main, pypi, run

FOLDER = Path("examples/infrastructure")
TEMPLATE = FOLDER / "cognito.yaml"
# Advice is an error, too. GovCloud has another list of resource types.
OPTIONS = ["--include-checks", "I", "--non-zero-exit-code", "informational", "--regions"]
REGIONS = ["ap-northeast-1", "eu-central-1", "us-east-1", "us-gov-west-1"]
DECODE = """
import json, sys
from cfnlint.decode import decode
print(json.dumps(decode(sys.argv[1])[0]))
"""


def text(value):
    """Returns a value of the template, with `!Ref Name` as `${Name}` like in `!Sub`."""
    if not isinstance(value, dict):
        return str(value)
    return f"${{{value['Ref']}}}" if "Ref" in value else str(value.get("Fn::Sub"))


def script(checks):
    venv = pypi(CFN_LINT)
    linted = run(venv.program("cfn-lint"), *OPTIONS, *REGIONS, "--", TEMPLATE)
    what = "cfn-lint has no objection to the template"
    checks.equal(what, (0, ""), (linted.returncode, linted.stdout + linted.stderr))
    decoded = run(venv.python, "-c", DECODE, TEMPLATE)
    template = json.loads(decoded.stdout)

    def expect_known(what, known, named):
        checks.equal(what, set(), set(named) - set(known))

    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    config = Path("src/config/mod.rs").read_text(encoding="utf-8")
    quickstart = Path("examples/quickstart.rs").read_text(encoding="utf-8")
    outputs = {name: text(output["Value"]) for name, output in template["Outputs"].items()}

    keys = re.search(r"const KEYS: .*? = \[(.*?)\];", config, re.DOTALL)[1]
    variables = {f"COGNITO_{key.upper()}" for key in re.findall(r'"(\w+)"', keys)}
    for name in ("cognito.yaml", "README.md"):
        named = re.findall(r"\bCOGNITO_\w+", (FOLDER / name).read_text(encoding="utf-8"))
        expect_known(f"{name} names no variable that `Config` does not read", variables, named)

    settings = {
        "COGNITO_USER_POOL_ID": "${UserPool}",
        "COGNITO_CLIENT_IDS": "${ActivityClient},${ItemClient}",
    }
    found = dict(re.findall(r"(\w+)=(\S+)", outputs.get("Environment", "")))
    checks.equal("the output Environment has the settings", settings, found)
    found = dict(re.findall(r"(COGNITO_\w+)=\$\(output (\w+)\)", readme))
    found = {name: outputs.get(output) for name, output in found.items()}
    checks.equal("README.md has the settings", settings, found)

    checks.equal("no output has a secret", False, "ClientSecret" in str(template["Outputs"]))
    jwks_url = f"{outputs.get('Issuer')}/.well-known/jwks.json"
    checks.equal("the keys are at the issuer", jwks_url, outputs.get("JwksUrl"))
    named = re.findall(r"\(output (\w+)\)", readme)
    expect_known("README.md names no output that is not there", outputs, named)
    named = re.findall(r"--parameter-overrides (\w+)=", readme)
    expect_known("README.md names no parameter that is not there", template["Parameters"], named)

    def with_defaults(value):
        parameters = template["Parameters"]
        return re.sub(r"\$\{(\w+)\}", lambda found: parameters[found[1]]["Default"], text(value))

    defined, granted = {}, []
    for name, resource in template["Resources"].items():
        properties = resource["Properties"]
        for scope in properties.get("Scopes", []):
            defined[f"{with_defaults(properties['Identifier'])}/{scope['ScopeName']}"] = name
        scopes = [with_defaults(scope) for scope in properties.get("AllowedOAuthScopes", [])]
        granted += [(scope, resource.get("DependsOn")) for scope in scopes]
    required = sorted(re.findall(r'RequireScope::new\("(.*?)"\)', quickstart))
    # No client has the scope of `/admin`, which shows a rejection.
    checks.equal(
        "the quickstart requires the scopes of the resource servers",
        required,
        sorted([*defined, "demo-dev/admin"]),
    )
    checks.equal("each is a client's, which waits for its resource server", defined, dict(granted))


main(script)
