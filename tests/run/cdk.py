#!/usr/bin/env python3
"""Compiles and synthesizes the CDK stack of examples/infrastructure without an AWS account, lints the
result, and compares it with the CloudFormation template and with the tables of the README."""
# ci: all waits: compare examples/infrastructure/cdk with cognito.yaml: the lines with FAIL say where they differ

import json
import os
import re
import shutil

from harness import ROOT, main, node, npm, pypi, run, temporary_folder

FOLDER = ROOT / "examples/infrastructure"
CDK = FOLDER / "cdk"
# Those for which infrastructure.sh lints the template.
REGIONS = ("ap-northeast-1", "eu-central-1", "us-east-1", "us-gov-west-1")
PAIRS = ("UserPool", "Domain", "ActivityServer", "ItemServer", "ActivityClient", "ItemClient")


def text(value):
    """Returns a value with references as `${Name}`, for both kinds of templates."""
    if isinstance(value, list):
        return [text(one) for one in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"Ref"}:
        return f"${{{logical(value['Ref'])}}}"
    if set(value) == {"Fn::Sub"}:
        return value["Fn::Sub"]
    if set(value) == {"Fn::Join"}:
        separator, parts = value["Fn::Join"]
        return separator.join(map(str, text(parts)))
    return {key: text(one) for key, one in value.items()}


def logical(name):
    """Returns the name of a construct without the hash that CDK adds."""
    return re.sub(r"[0-9A-F]{8}$", "", name)


def flat(value, path=""):
    """Returns the properties by their path."""
    if isinstance(value, dict) and value:
        return {
            inner: leaf
            for key, one in value.items()
            for inner, leaf in flat(one, f"{path}.{key}" if path else key).items()
        }
    return {path: value}


def resources(template, parameters=None):
    """Returns the properties of the six resources. References to parameters are their defaults."""
    found = {}
    for name, resource in template["Resources"].items():
        if logical(name) not in PAIRS or not resource["Type"].startswith("AWS::Cognito::"):
            continue
        keys = {key: resource.get(key) for key in ("DeletionPolicy", "UpdateReplacePolicy")}
        keys["DependsOn"] = resource.get("DependsOn")
        properties = {**flat(text(resource["Properties"])), **keys}
        found[logical(name)] = {key: one for key, one in properties.items() if one is not None}
    servers = {
        name: properties["Identifier"]
        for name, properties in found.items()
        if name.endswith("Server")
    }
    known = {**(parameters or {}), **servers}

    def filled(value):
        if isinstance(value, list):
            return [filled(one) for one in value]
        if not isinstance(value, str):
            return value
        for _ in range(2):
            value = re.sub(r"\$\{(\w+)\}", lambda found: str(known.get(found[1], found[0])), value)
        return int(value) if value.isdigit() else value

    return {
        name: {key: filled(value) for key, value in properties.items()}
        for name, properties in found.items()
    }


def differences(template, stack):
    """Returns `{(resource, property): (in the template, in the stack)}`, with `None` if it is absent."""
    found = {}
    for name in PAIRS:
        for key in sorted({*template[name], *stack[name]}):
            pair = template[name].get(key), stack[name].get(key)
            if pair[0] != pair[1]:
                found[name, key] = pair
    return found


def intended(readme):
    """Returns the rows of the README's table: resources, property, template, stack."""
    rows = {}
    section = readme.split("## With the AWS CDK")[1].split("\n## ")[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 5:
            continue
        for name in re.findall(r"`(\w+)`", cells[0]):
            for key in re.findall(r"`([\w.]+)`", cells[1]):
                values = (None if cell == "absent" else cell for cell in cells[2:4])
                rows[name, key] = tuple(values)
    return rows


def shown(value):
    """Returns a value as the README shows it."""
    if value is None:
        return None
    if isinstance(value, list):
        return "a list"
    return "a text" if "####" in value or "account" in value else f"`{value}`"


def synthesize(folder):
    """Returns the synthesized template."""
    manifest = json.loads((CDK / "package.json").read_text())
    wanted = {**manifest["dependencies"], **manifest["devDependencies"]}
    # The command line of the CDK deploys; it is not needed to synthesize.
    packages = [f"{name}@{wanted[name]}" for name in ("aws-cdk-lib", "constructs", "typescript")]
    modules = npm(*packages) / "node_modules"
    for name in ("app.ts", "package.json", "tsconfig.json"):
        shutil.copy(CDK / name, folder)
    (folder / "node_modules").symlink_to(modules)
    for name in ("bootstrap", "authorizer"):
        (folder / "functions" / name).mkdir(parents=True)
        (folder / "functions" / name / "bootstrap").touch()
    environment = {
        **os.environ,
        "PATH": f"{node()}:{os.environ.get('PATH', '')}",
        "CDK_OUTDIR": str(folder / "out"),
        "CDK_CONTEXT_JSON": json.dumps({"functions": "functions"}),
    }
    compiled = run(modules / ".bin/tsc", cwd=folder, env=environment)
    if compiled.returncode:
        raise RuntimeError(f"it does not compile: {compiled.stdout}{compiled.stderr}")
    done = run(node() / "node", "build/app.js", cwd=folder, env=environment)
    if done.returncode:
        raise RuntimeError(f"it cannot be synthesized: {done.stderr}")
    # The constructs print their warnings there.
    return folder / "out/TowerCognito.template.json", done.stderr


def script(checks):
    venv = pypi("cfn-lint==1.58.0")
    with temporary_folder() as folder:
        path, warnings = synthesize(folder)
        checks.equal("it is synthesized without a warning", "", warnings)
        stack = json.loads(path.read_text())
        # CDK writes dependencies that are there already.
        options = ["--ignore-checks", "W3005", "--regions", *REGIONS]
        lint = [venv.program("cfn-lint"), *options, "--", path]
        done = run(*lint)
        checks.equal("cfn-lint has no objection", (0, ""), (done.returncode, done.stdout))
    decode = "import json, sys; from cfnlint.decode import decode; print(json.dumps(decode(sys.argv[1])[0]))"
    done = run(venv.python, "-c", decode, FOLDER / "cognito.yaml")
    template = json.loads(done.stdout)
    defaults = {
        name: parameter.get("Default", "example-7f3a")
        for name, parameter in template["Parameters"].items()
    }

    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = differences(resources(template, defaults), resources(stack))
    found = {at: (shown(old), shown(new)) for at, (old, new) in found.items()}
    listed = intended(readme)
    checks.equal("the README lists every difference, and no other", listed, found)

    everything = {logical(name): one for name, one in stack["Resources"].items()}
    for name in ("ActivityClient", "ItemClient"):
        flows = everything[name]["Properties"].get("ExplicitAuthFlows")
        checks.equal(f"{name}: no user can sign in", ["ALLOW_REFRESH_TOKEN_AUTH"], flows)
    authorizers = {
        name: one["Properties"]
        for name, one in everything.items()
        if one["Type"] == "AWS::ApiGateway::Authorizer"
    }
    kinds = {
        name: (one["Type"], one["AuthorizerResultTtlInSeconds"])
        for name, one in authorizers.items()
    }
    expected = {
        "CognitoAuthorizer": ("COGNITO_USER_POOLS", 0),
        "LambdaAuthorizer": ("TOKEN", 0),
    }
    checks.equal("both authorizers, which cache nothing", expected, kinds)
    methods = {
        one["Properties"]["HttpMethod"]: (
            one["Properties"]["AuthorizationType"],
            one["Properties"].get("AuthorizationScopes"),
        )
        for one in stack["Resources"].values()
        if one["Type"] == "AWS::ApiGateway::Method"
    }
    scope = [{"Fn::Join": ["", [{"Ref": reference(stack, "ItemServer")}, "/read"]]}]
    expected = {"GET": ("COGNITO_USER_POOLS", scope), "POST": ("CUSTOM", None)}
    checks.equal("each method has an authorizer", expected, methods)
    checks.equal("no output has a secret", False, "ClientSecret" in json.dumps(stack["Outputs"]))
    names = {name for name in stack["Outputs"] if not name.startswith("ApiEndpoint")}
    checks.equal("the template has its outputs, too", set(), names - {*template["Outputs"]})


def reference(stack, name):
    return next(key for key in stack["Resources"] if logical(key) == name)


main(script)
