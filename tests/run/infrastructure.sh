#!/usr/bin/env bash
# Lints the CloudFormation template of examples/infrastructure and compares the names in the
# template and its README with those in the code.
#
#     tests/run/infrastructure.sh
#
# PYTHON   a Python that can create virtual environments, default `python3`
#
# It installs cfn-lint from PyPI into target/ if it is missing. Nothing is deployed. Exits 1 if a
# check failed.
# ci: all waits: fix examples/infrastructure: the lines above say where; or pip has to reach PyPI
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv=${CARGO_TARGET_DIR:-target}/cfn-lint
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

if ! "$venv/bin/cfn-lint" --version >/dev/null 2>&1; then
    if ! { "${PYTHON:-python3}" -m venv --clear "$venv" &&
        "$venv/bin/pip" install --quiet --only-binary=:all: 'cfn-lint~=1.58'; }; then
        echo "cfn-lint cannot be installed: it needs python3-venv and PyPI" >&2
        exit 1
    fi
fi

# Advice is an error, too. GovCloud has another list of resource types.
"$venv/bin/cfn-lint" --include-checks I --non-zero-exit-code informational \
    --regions ap-northeast-1 eu-central-1 us-east-1 us-gov-west-1 \
    -- examples/infrastructure/cognito.yaml || exit 1

"$venv/bin/python" - <<'EOF'
import re
import sys
from pathlib import Path

from cfnlint.decode import decode

FOLDER = Path("examples/infrastructure")
failed = False


def expect(what, expected, actual):
    global failed
    if actual == expected:
        print(f"ok - {what}")
    else:
        failed = True
        print(f"FAIL - {what}\n    expected: {expected}\n    actual:   {actual}")


def expect_known(what, known, named):
    expect(what, set(), set(named) - set(known))


def text(value):
    """Returns a value of the template, with `!Ref Name` as `${Name}` like in `!Sub`."""
    if not isinstance(value, dict):
        return str(value)
    return f"${{{value['Ref']}}}" if "Ref" in value else str(value.get("Fn::Sub"))


template, _ = decode(str(FOLDER / "cognito.yaml"))
readme = (FOLDER / "README.md").read_text(encoding="utf-8")
config = Path("src/config.rs").read_text(encoding="utf-8")
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
expect("the output Environment has the settings", settings, found)
found = dict(re.findall(r"(COGNITO_\w+)=\$\(output (\w+)\)", readme))
found = {name: outputs.get(output) for name, output in found.items()}
expect("README.md has the settings", settings, found)

expect("no output has a secret", False, "ClientSecret" in str(template["Outputs"]))
jwks_url = f"{outputs.get('Issuer')}/.well-known/jwks.json"
expect("the keys are at the issuer", jwks_url, outputs.get("JwksUrl"))
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
expect("the quickstart requires the scopes of the resource servers", required, sorted(defined))
expect("each is a client's, which waits for its resource server", defined, dict(granted))
sys.exit(failed)
EOF
