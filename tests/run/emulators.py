#!/usr/bin/env python3
"""Runs emulators of Cognito. `emulator_tokens.py` makes a user pool with clients, a user and a resource server
in each, and gets tokens in every way. `examples/verify` says of each token whether it is valid, and the
quickstart gets it in a request. The quickstart is configured by environment variables only: over loopback, and
over a host name that is not loopback. If an emulator does not offer a way, the script records its answer."""
# ci: all waits: the lines with FAIL say which token got which answer; or pip and npm have to reach their registries
import base64
import json
import os
import re
import socket
import subprocess
import sys

from harness import ROOT, NotAvailable, Program, build, debian, environment, free_port, get, installed, listens
from harness import Service, main, node, npm, pypi, run, start, temporary_folder
from results import Table

SDK = ("boto3==1.44.8", "pycognito==2024.5.1", "requests==2.34.2")
AWS_CLI = "awscli==1.46.3"
SCOPE = "activity/*"
COMPOSE = ROOT / "examples/compose.yaml"

def moto():
    folder = pypi("moto[cognitoidp,server]==5.2.5")
    return lambda port: ([folder.program("moto_server"), "-H", "0.0.0.0", "-p", port], {})


def cognito_local():
    program = npm("cognito-local@5.3.0") / "node_modules/cognito-local/lib/bin/start.js"
    # As in its container image: HOST is where it listens, and the host of `iss`.
    return lambda port: ([node() / "node", program], {"HOST": "0.0.0.0", "PORT": str(port)})


def ministack(*more):
    folder = pypi("ministack==1.5.33", *more)
    return lambda port: ([folder.program("ministack")], {"GATEWAY_PORT": str(port)})


def localemu():
    def install(folder):
        # One of its dependencies is published only as source.
        make = [sys.executable, "-m", "venv", "--clear", folder]
        pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "localemu==1.3.2"]
        for command in (make, pip):
            try:
                done = run(*command)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise NotAvailable(f"localemu cannot be installed: {error}") from None
            if done.returncode:
                raise NotAvailable(f"localemu cannot be installed: {done.stderr}")

    folder = installed("localemu-1.3.2", install)
    settings = {"SERVICES": "cognito-idp", "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    return lambda port: (
        [folder / "bin/localemu", "start"],
        {**settings, "GATEWAY_LISTEN": f"0.0.0.0:{port}"},
    )


# Name, version, and how to start it.
EMULATORS = [
    ("moto", "5.2.5", moto),
    ("cognito-local", "5.3.0", cognito_local),
    # Without cryptography, its signatures are random bytes.
    ("ministack", "1.5.33", lambda: ministack("cryptography==49.0.0")),
    ("localemu", "1.3.2", localemu),
]


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def verdict(checks, name, programs, jwks, issuer, token):
    """Returns the first words of what examples/verify prints."""
    command = [programs["verify"], "--jwks", jwks, "--issuer", issuer, "--any-client"]
    done = run(*command, input=token, env=environment(), timeout=60)
    return " ".join(done.stdout.split(" ")[: 1 if done.returncode == 0 else 2]) or done.stderr


def started(checks, where, launch, work):
    """Starts an emulator in this new folder. Returns its process and its port, or twice `None`."""
    port = free_port()
    command, settings = launch()(port)
    work.mkdir()
    log = open(work / "log", "wb")
    process = start(*command, env={**environment(), **settings}, cwd=work, stdout=log, stderr=log)
    if checks.that(listens(port, process, within=240), f"{where} starts", tail(work / "log")):
        return process, port
    return None, None


def check(checks, programs, sdk, folder, emulator, host):
    """Gets the tokens and sends them. Returns what came of each way, and of the facts of the page."""
    name, _, launch = emulator
    where = f"{name} over {host}"
    work = folder / f"{name}-{host}"
    process, port = started(checks, where, launch, work)
    if process is None:
        return None
    origin = f"http://{host}:{port}"
    found = tokens_of(checks, sdk, where, origin, "us-east-1")
    if found is None:
        print(tail(work / "log"))
        return None
    pool, tokens = found["pool"], found["tokens"]
    jwks_url = f"{origin}/{pool}/.well-known/jwks.json"
    jwks = work / "jwks.json"
    jwks.write_bytes(get(jwks_url).body)

    issuer = claims(tokens["`ADMIN_USER_PASSWORD_AUTH`"])["iss"]
    is_aws = issuer == aws_issuer("us-east-1", pool)
    variables = {
        "COGNITO_CLIENT_IDS": ",".join(found["clients"]),
        "COGNITO_JWKS_URL": jwks_url,
        "QUICKSTART_API": "127.0.0.1:0",
        **({"COGNITO_USER_POOL_ID": pool} if is_aws else {"COGNITO_ISSUER": issuer}),
        **({} if host == "127.0.0.1" else {"COGNITO_INSECURE_JWKS_HOST": f"{host}:{port}"}),
    }
    service = Quickstart(programs["quickstart"], work, variables)
    if not checks.that(service.becomes_ready(within=60), f"{where}: the quickstart starts", tail(work / "api.err")):
        return None

    pattern = issuer.replace(pool, "POOL").replace(str(port), "PORT").replace("us-east-1", "REGION")
    seen = {
        "`iss`": f"`{pattern}`",
        "besides `COGNITO_JWKS_URL`": "`COGNITO_USER_POOL_ID`" if is_aws else "`COGNITO_ISSUER`",
    }
    for way, answer in found["ways"].items():
        if way not in tokens:
            trigger = ", without a trigger" if way == "`CUSTOM_AUTH`" and not found["trigger"] else ""
            seen[way] = f"no token ({answer}{trigger})"
            continue
        token = tokens[way]
        status = get(f"http://{service.address}/activity", token=token, method="POST", body="{}").status
        has_scope = SCOPE in claims(token).get("scope", "").split(" ")
        expected = ("accept", 200 if has_scope else 403)
        actual = (verdict(checks, where, programs, jwks, issuer, token), status)
        checks.equal(f"{where}: {way}", expected, actual)
        seen[way] = str(status)
    status = get(f"http://{service.address}/item", token=found["id"]).status
    actual = (verdict(checks, where, programs, jwks, issuer, found["id"]), status)
    checks.equal(f"{where}: an ID token", ("refuse wrong_token_use", 401), actual)
    facts(checks, sdk, where, origin, emulator, found)
    service.process.kill()
    process.terminate()
    return seen


def tokens_of(checks, sdk, where, origin, region):
    """Runs emulator_tokens.py."""
    done = run(sdk, ROOT / "tests/run/emulator_tokens.py", origin, region, env=environment(), timeout=300)
    if checks.equal(f"{where}: the SDK makes a pool in {region}", 0, done.returncode):
        return json.loads(done.stdout)
    print(done.stderr[-2000:])
    return None


def facts(checks, sdk, where, origin, emulator, found):
    """Checks the other statements of the page about this emulator."""
    name = emulator[0]
    status = get(f"{origin}/us-east-1_AbCdEfGhI/.well-known/jwks.json").status
    expected = 200 if name in ("moto", "cognito-local") else 404
    checks.equal(f"{where}: the keys of a pool that does not exist", expected, status)
    if name == "cognito-local":
        document = get(f"{origin}/{found['pool']}/.well-known/openid-configuration")
        issuer = json.loads(document.body)["issuer"]
        checks.equal(f"{where}: discovery", f"http://localhost:9229/{found['pool']}", issuer)
    if name == "ministack":
        compose_commands(checks, where, origin)
    if name == "localemu":
        other = tokens_of(checks, sdk, where, origin, "eu-west-1")
        if other is not None:
            of_user, of_admin = (
                claims(other["tokens"][f"`{flow}_PASSWORD_AUTH`"])["iss"] == aws_issuer("eu-west-1", other["pool"])
                for flow in ("USER", "ADMIN_USER")
            )
            checks.equal(f"{where}: AWS is the issuer in eu-west-1", (True, False), (of_user, of_admin))


def aws_issuer(region, pool):
    return f"https://cognito-idp.{region}.amazonaws.com/{pool}"


def tail(path):
    return path.read_text(errors="replace")[-1500:]


class Quickstart(Service):
    """A quickstart with these settings only."""

    def __init__(self, program, folder, settings):
        Program.__init__(self, folder, "api", program, **settings)


def host_name():
    """Returns a name of this machine that is not `localhost`."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None, socket.AF_INET)
    except OSError as error:
        raise NotAvailable(f"this machine has no name that resolves: {error}") from None
    return name


def script(checks):
    programs = build("issuer", "quickstart", "verify")
    sdk = pypi(*SDK).python
    results, versions = {}, {}
    only = os.environ.get("ONLY", "").split()
    with temporary_folder() as folder:
        for emulator in EMULATORS:
            name, version = emulator[:2]
            if only and name not in only:
                continue
            try:
                over_loopback, over_name = (
                    check(checks, programs, sdk, folder, emulator, host)
                    for host in ("127.0.0.1", host_name())
                )
            except NotAvailable as error:
                checks.not_checked(name, error)
                continue
            if over_loopback is not None and over_name is not None:
                checks.equal(f"{name}: the same over both", over_loopback, over_name)
                results[name], versions[name] = over_loopback, version
        if not only or "ministack" in only:
            try:
                without_cryptography(checks, programs, sdk, folder)
            except NotAvailable as error:
                checks.not_checked("ministack without cryptography", error)
    compose(checks)
    if results:
        table = Table("emulators", list(next(iter(results.values()))))
        for name, cells in results.items():
            table.row(name, versions[name], list(cells.values()))
        table.check(checks, __file__)


def without_cryptography(checks, programs, sdk, folder):
    """A token of ministack is not valid then, and the error says that no key is usable."""
    where, work = "ministack without cryptography", folder / "without-cryptography"
    process, port = started(checks, where, ministack, work)
    if process is None:
        return
    origin = f"http://127.0.0.1:{port}"
    found = tokens_of(checks, sdk, where, origin, "us-east-1")
    if found is None:
        return
    jwks = work / "jwks.json"
    jwks.write_bytes(get(f"{origin}/{found['pool']}/.well-known/jwks.json").body)
    issuer = aws_issuer("us-east-1", found["pool"])
    command = [programs["verify"], "--jwks", jwks, "--issuer", issuer, "--any-client"]
    token = found["tokens"]["`USER_PASSWORD_AUTH`"]
    done = run(*command, input=token, env=environment(), timeout=60)
    checks.contains(f"{where}: no key is usable", done.stderr, "no usable key")
    checks.that(done.returncode != 0, f"{where}: the token is not valid")
    process.terminate()


def compose_commands(checks, where, origin):
    """Runs the commands of examples/compose.yaml that make a pool, with the AWS CLI."""
    comment = re.search(r"(?s)#     (export AWS_ENDPOINT_URL.*?)#     docker compose up api", COMPOSE.read_text())[1]
    commands = re.sub(r"(?m)^#( {5})?", "", comment).replace("http://localhost:4566", origin)
    end = 'echo "$COGNITO_USER_POOL_ID $COGNITO_CLIENT_IDS"'
    path = f"{pypi(AWS_CLI).program('aws').parent}:{os.environ['PATH']}"
    done = run("bash", "-c", f"set -e\n{commands}\n{end}", env={**environment(), "PATH": path})
    made = re.search(r"(?m)^us-east-1_\w+ \w{20,}$", done.stdout)
    checks.that(made, f"{where}: the commands of examples/compose.yaml", done.stdout + done.stderr)


def compose(checks):
    """Checks examples/compose.yaml with Docker Compose, which needs no engine for that, and that the
    variables are those of the page."""
    try:
        program = debian("docker-compose")
    except NotAvailable as error:
        checks.not_checked("examples/compose.yaml", error)
        return
    values = {"COGNITO_USER_POOL_ID": "us-east-1_a", "COGNITO_CLIENT_IDS": "abc"}
    done = run(program, "--file", COMPOSE, "config", env={**environment(), **values})
    if checks.equal("examples/compose.yaml is valid", (0, ""), (done.returncode, done.stderr)):
        expected = {
            "COGNITO_CLIENT_IDS: abc",
            "COGNITO_INSECURE_JWKS_HOST: emulator:4566",
            "COGNITO_JWKS_URL: http://emulator:4566/us-east-1_a/.well-known/jwks.json",
            "COGNITO_USER_POOL_ID: us-east-1_a",
        }
        lines = {line.strip() for line in done.stdout.splitlines()}
        settings = {line for line in lines if line.startswith("COGNITO_")}
        checks.equal("examples/compose.yaml has these settings", expected, settings)


main(script)
