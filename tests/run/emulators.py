#!/usr/bin/env python3
"""Runs emulators of Cognito. The AWS SDK makes a user pool with clients, a user and a resource server in
each, and gets tokens by password, refresh and client credentials. `examples/verify` says of each token whether
it is valid, and the quickstart gets it in a request. The quickstart is configured by environment
variables only: over loopback, and over a host name that is not loopback."""
# ci: all waits: the lines with FAIL say which token got which answer; or pip and npm have to reach their registries
import base64
import json
import os
import socket
import subprocess
import sys

from harness import ROOT, NotAvailable, build, debian, environment, free_port, get, installed, listens
from harness import Service, main, node, npm, pypi, run, start, temporary_folder
from results import Table

BOTO3 = "1.44.8"
SCOPE = "activity/*"
# The ways to a token at the token endpoint.
ENDPOINT = ("Basic", "Basic with `scope`", "body", "body with `scope`")

# Prints a JSON object: the pool, its clients, and for each way to a token what it gave.
SDK = '''
import base64, json, sys, urllib.parse, urllib.request, urllib.error
import boto3
from botocore import UNSIGNED
from botocore.config import Config

origin, region = sys.argv[1:3]
keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
retries = Config(retries={"total_max_attempts": 1}, read_timeout=60)
sdk = boto3.client("cognito-idp", region_name=region, endpoint_url=origin, config=retries, **keys)
found = {"tokens": {}, "errors": {}}

pool = found["pool"] = sdk.create_user_pool(PoolName="test")["UserPool"]["Id"]
flows = ["ALLOW_USER_PASSWORD_AUTH", "ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
client = sdk.create_user_pool_client(UserPoolId=pool, ClientName="web", ExplicitAuthFlows=flows)
web = found["web"] = client["UserPoolClient"]["ClientId"]
sdk.admin_create_user(UserPoolId=pool, Username="alice@example.com", MessageAction="SUPPRESS")
sdk.admin_set_user_password(UserPoolId=pool, Username="alice@example.com", Password="Passw0rd!", Permanent=True)
try:
    scopes = [{"ScopeName": "*", "ScopeDescription": "all"}, {"ScopeName": "read", "ScopeDescription": "read"}]
    sdk.create_resource_server(UserPoolId=pool, Identifier="activity", Name="activity", Scopes=scopes)
except Exception as error:
    found["errors"]["CreateResourceServer"] = type(error).__name__
machine = sdk.create_user_pool_client(
    UserPoolId=pool, ClientName="machine", GenerateSecret=True, AllowedOAuthFlowsUserPoolClient=True,
    AllowedOAuthFlows=["client_credentials"], AllowedOAuthScopes=["activity/*"])["UserPoolClient"]
ID, SECRET = machine["ClientId"], machine.get("ClientSecret", "none")
found["machine"] = ID

def way(name, call):
    try:
        found["tokens"][name] = call()
    except urllib.error.HTTPError as error:
        found["errors"][name] = f"{error.code} {error.read(200).decode(errors='replace')}"
    except Exception as error:
        found["errors"][name] = f"{type(error).__name__} {error}"[:300]

def user(flow, call, **parameters):
    answer = call(AuthFlow=flow, ClientId=web, **parameters)["AuthenticationResult"]
    found.setdefault("id", answer.get("IdToken"))
    found.setdefault("refresh", answer.get("RefreshToken"))
    return answer["AccessToken"]

def endpoint(form, basic):
    request = urllib.request.Request(origin + "/oauth2/token", urllib.parse.urlencode(form).encode())
    if basic:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{ID}:{SECRET}".encode()).decode())
    return json.load(urllib.request.urlopen(request, timeout=60))["access_token"]

password = {"USERNAME": "alice@example.com", "PASSWORD": "Passw0rd!"}
way("InitiateAuth", lambda: user("USER_PASSWORD_AUTH", sdk.initiate_auth, AuthParameters=password))
way("AdminInitiateAuth", lambda: user("ADMIN_USER_PASSWORD_AUTH", sdk.admin_initiate_auth, UserPoolId=pool, AuthParameters=password))
way("refresh", lambda: user("REFRESH_TOKEN_AUTH", sdk.initiate_auth, AuthParameters={"REFRESH_TOKEN": found["refresh"]}))
grant = {"grant_type": "client_credentials"}
body = {"client_id": ID, "client_secret": SECRET}
scope = {"scope": "activity/*"}
way("Basic", lambda: endpoint(grant, True))
way("Basic with `scope`", lambda: endpoint(grant | scope, True))
way("body", lambda: endpoint(grant | body, False))
way("body with `scope`", lambda: endpoint(grant | body | scope, False))
unsigned = boto3.client("cognito-idp", region_name=region, endpoint_url=origin,
    config=Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1}))
def get_client_token():
    answer = unsigned.get_client_token(ClientId=ID, Secret=SECRET)
    return answer["ClientAuthenticationResult"]["AccessToken"]
way("GetClientToken", get_client_token)
found.pop("refresh", None)
print(json.dumps(found))
'''


def moto():
    folder = pypi("moto[cognitoidp,server]==5.2.5")
    return lambda port: ([folder.program("moto_server"), "-H", "0.0.0.0", "-p", port], {})


def cognito_local():
    program = npm("cognito-local@5.3.0") / "node_modules/cognito-local/lib/bin/start.js"
    # As in its container image: HOST is where it listens, and the host of `iss`.
    return lambda port: ([node() / "node", program], {"HOST": "0.0.0.0", "PORT": str(port)})


def ministack():
    # Without cryptography, its signatures are random bytes.
    folder = pypi("ministack==1.5.33", "cryptography==49.0.0")
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
    ("ministack", "1.5.33", ministack),
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


def check(checks, programs, sdk, folder, emulator, host):
    """Gets the tokens and sends them. Returns the cells of the table."""
    name, _, launch = emulator
    port = free_port()
    command, settings = launch()(port)
    where = f"{name} over {host}"
    work = folder / f"{name}-{host}"
    work.mkdir()
    log = open(work / "log", "wb")
    process = start(*command, env={**environment(), **settings}, cwd=work, stdout=log, stderr=log)
    if not checks.that(listens(port, process, within=240), f"{where} starts", tail(work / "log")):
        return None
    origin = f"http://{host}:{port}"
    done = run(sdk, "-c", SDK, origin, "us-east-1", env=environment(), timeout=300)
    if not checks.equal(f"{where}: the SDK makes a pool", 0, done.returncode):
        print(done.stderr[-2000:], tail(work / "log"))
        return None
    found = json.loads(done.stdout)
    pool, tokens = found["pool"], found["tokens"]
    for way, error in found["errors"].items():
        print(f"     {where}: {way}: {error}")
    jwks_url = f"{origin}/{pool}/.well-known/jwks.json"
    jwks = work / "jwks.json"
    jwks.write_bytes(get(jwks_url).body)

    issuer = claims(tokens["AdminInitiateAuth"])["iss"]
    is_aws = issuer == f"https://cognito-idp.us-east-1.amazonaws.com/{pool}"
    variables = {
        "COGNITO_CLIENT_IDS": f"{found['web']},{found['machine']}",
        "COGNITO_JWKS_URL": jwks_url,
        "QUICKSTART_API": "127.0.0.1:0",
        **({"COGNITO_USER_POOL_ID": pool} if is_aws else {"COGNITO_ISSUER": issuer}),
        **({} if host == "127.0.0.1" else {"COGNITO_INSECURE_JWKS_HOST": f"{host}:{port}"}),
    }
    service = Quickstart(programs["quickstart"], work, variables)
    if not checks.that(service.becomes_ready(within=60), f"{where}: the quickstart starts", tail(work / "api.err")):
        return None

    answers = {}
    for way, token in tokens.items():
        status = get(f"http://{service.address}/activity", token=token, method="POST", body="{}").status
        has_scope = SCOPE in claims(token).get("scope", "").split(" ")
        expected = ("accept", 200 if has_scope else 403)
        seen = (verdict(checks, where, programs, jwks, issuer, token), status)
        checks.equal(f"{where}: {way}", expected, seen)
        answers[way] = status
    status = get(f"http://{service.address}/item", token=found["id"]).status
    seen = (verdict(checks, where, programs, jwks, issuer, found["id"]), status)
    checks.equal(f"{where}: an ID token", ("refuse wrong_token_use", 401), seen)
    service.process.kill()
    process.terminate()

    pattern = issuer.replace(pool, "POOL").replace(str(port), "PORT").replace("us-east-1", "REGION")
    users = ("InitiateAuth", "AdminInitiateAuth", "refresh")
    rejected = [way for way in found["errors"] if way in ENDPOINT]
    return [
        f"`{pattern}`",
        "`COGNITO_USER_POOL_ID`" if is_aws else "`COGNITO_ISSUER`",
        cell({way: status for way, status in answers.items() if way in users}, []),
        cell({way: status for way, status in answers.items() if way not in users}, rejected),
    ]


def cell(answers, rejected):
    """Returns the ways to a token by the status that the token gets, and those without a token."""
    if not answers:
        return "none"
    by_status = {}
    for way, status in answers.items():
        by_status.setdefault(status, []).append(way)
    parts = [f"{status}: {', '.join(ways)}" for status, ways in by_status.items()]
    return "; ".join([*parts, *([f"no token: {', '.join(rejected)}"] if rejected else [])])


def tail(path):
    return path.read_text(errors="replace")[-1500:]


class Quickstart(Service):
    """A quickstart with these settings only."""

    def __init__(self, program, folder, settings):
        self.output, self.log, self.address = folder / "api.out", folder / "api.err", None
        with open(self.output, "wb") as out, open(self.log, "wb") as err:
            self.process = start(program, env=environment(**settings), stdout=out, stderr=err)


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
    sdk = pypi(f"boto3=={BOTO3}").python
    columns = ["`iss`", "besides `COGNITO_JWKS_URL`", "tokens of users", "tokens of machines, from the token endpoint"]
    table = Table("emulators", columns)
    only = os.environ.get("ONLY", "").split()
    with temporary_folder() as folder:
        for emulator in EMULATORS:
            name, version = emulator[:2]
            if only and name not in only:
                continue
            try:
                cells = [
                    check(checks, programs, sdk, folder, emulator, host)
                    for host in ("127.0.0.1", host_name())
                ]
            except NotAvailable as error:
                checks.not_checked(name, error)
                continue
            if None not in cells:
                checks.equal(f"{name}: the same over both", cells[0], cells[1])
                table.row(name, version, cells[0])
    compose(checks)
    table.check(checks, __file__)


def compose(checks):
    """Checks examples/compose.yaml with Docker Compose, which needs no engine for that, and that the
    variables are those of the page."""
    try:
        program = debian("docker-compose")
    except NotAvailable as error:
        checks.not_checked("examples/compose.yaml", error)
        return
    values = {"COGNITO_USER_POOL_ID": "us-east-1_a", "COGNITO_CLIENT_IDS": "abc"}
    file = ROOT / "examples/compose.yaml"
    done = run(program, "--file", file, "config", env={**environment(), **values})
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
