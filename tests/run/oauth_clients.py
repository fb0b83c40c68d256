#!/usr/bin/env python3
"""Gets tokens from the quickstart's token endpoint with OAuth clients of several languages, sends each
token to the API, and pastes the lines that the quickstart prints into a shell."""
# ci: all waits: the lines with FAIL say which client got which answer; or pip and npm have to reach their registries
import json
import os
import re
import subprocess
import urllib.parse

from harness import ITEMS, ROOT, NotAvailable, build, environment, get, main, npm, node, pypi, run
from harness import start, temporary_folder, wait_until
from results import Table

REQUESTS, AUTHLIB, BOTO3 = "2.34.2", "1.9.10", "1.44.8"
OPENID_CLIENT, SIMPLE_OAUTH2 = "6.9.0", "5.1.0"

# Each program prints the token. `way` is "basic" or "body".
PYTHON = {
    "requests": """
import requests
from requests.auth import HTTPBasicAuth
form = {"grant_type": "client_credentials"}
auth = HTTPBasicAuth(ID, SECRET) if WAY == "basic" else None
if WAY == "body":
    form |= {"client_id": ID, "client_secret": SECRET}
answer = requests.post(URL, data=form, auth=auth, timeout=20)
answer.raise_for_status()
print(answer.json()["access_token"])
""",
    "authlib": """
from authlib.integrations.requests_client import OAuth2Session
method = {"basic": "client_secret_basic", "body": "client_secret_post"}[WAY]
session = OAuth2Session(ID, SECRET, token_endpoint_auth_method=method)
print(session.fetch_token(URL, grant_type="client_credentials")["access_token"])
""",
    "boto3": """
import boto3
from botocore import UNSIGNED
from botocore.config import Config
client = boto3.client("cognito-idp", region_name="us-east-1",
    endpoint_url=URL.removesuffix("/oauth2/token"), config=Config(signature_version=UNSIGNED))
answer = client.get_client_token(ClientId=ID, Secret=SECRET)
print(answer["ClientAuthenticationResult"]["AccessToken"])
""",
}
JAVASCRIPT = {
    "openid-client": """
import * as client from 'openid-client';
const issuer = new URL('/us-east-1_TestIssuer', URL_);
const auth = WAY === 'basic' ? client.ClientSecretBasic(SECRET) : client.ClientSecretPost(SECRET);
const execute = process.env.PLAIN_HTTP === 'no' ? [] : [client.allowInsecureRequests];
const config = await client.discovery(issuer, ID, undefined, auth, { execute });
console.log((await client.clientCredentialsGrant(config)).access_token);
""",
    "simple-oauth2": """
import { ClientCredentials } from 'simple-oauth2';
const client = new ClientCredentials({
  client: { id: ID, secret: SECRET },
  auth: { tokenHost: new URL(URL_).origin, tokenPath: '/oauth2/token' },
  options: { authorizationMethod: WAY === 'basic' ? 'header' : 'body' },
});
console.log((await client.getToken({})).token.access_token);
""",
}
PYTHON_HEAD = """
import os, sys
ID, SECRET, URL = (os.environ[name] for name in ("CLIENT_ID", "CLIENT_SECRET", "TOKEN_ENDPOINT_URL"))
WAY = sys.argv[1]
"""
JAVASCRIPT_HEAD = """
const { CLIENT_ID: ID, CLIENT_SECRET: SECRET, TOKEN_ENDPOINT_URL: URL_ } = process.env;
const WAY = process.argv[2];
"""


def script(checks):
    programs = build("issuer", "quickstart")
    with temporary_folder() as folder:
        check(checks, programs, folder)


def check(checks, programs, folder):
    output, log = folder / "output", folder / "log"
    settings = environment(QUICKSTART_API="127.0.0.1:0", QUICKSTART_ISSUER="127.0.0.1:0")
    with open(output, "wb") as out, open(log, "wb") as err:
        start(programs["quickstart"], env=settings, stdout=out, stderr=err)
    end = "Press Ctrl-C to stop it."
    if not checks.that(wait_until(lambda: end in output.read_text()), "the quickstart starts"):
        return
    head, help = output.read_text().split("\nready\n")
    values = dict(line.split("=", 1) for line in head.splitlines())
    paste(checks, help)

    packages = [f"requests=={REQUESTS}", f"Authlib=={AUTHLIB}"]
    table = Table("oauth_clients", ["HTTP Basic", "in the body", "for plain http it needs"])
    ways = {}

    def client(name, way, *command):
        """Checks that the client gets a token that the API accepts. Returns the cell of the table."""
        done = run(*command, way, env={**environment(), **values}, timeout=60)
        token = done.stdout.strip()
        answer = get(values["API_URL"], token=token) if done.returncode == 0 else None
        served = answer is not None and (answer.status, answer.body) == (200, ITEMS)
        detail = (done.stdout + done.stderr).strip()[-400:] if answer is None else answer.status
        checks.that(served, f"{name}, {way}: the API accepts its token", detail)
        return "works" if served else "fails"

    def python(name, packages, title, version, needs):
        try:
            interpreter = pypi(*packages).python
        except NotAvailable as error:
            checks.not_checked(title, error)
            return
        program = folder / f"{name}_client.py"
        program.write_text(PYTHON_HEAD + PYTHON[name])
        if name == "boto3":
            seen = client(name, "GetClientToken", interpreter, program)
            cells = ["–", f"{seen}, as JSON"]
        else:
            cells = [client(name, way, interpreter, program) for way in ("basic", "body")]
        table.row(title, version, [*cells, needs])

    python("requests", packages, "requests (Python)", REQUESTS, "nothing")
    python("authlib", packages, "Authlib (Python)", AUTHLIB, "nothing")

    try:
        modules = npm(f"openid-client@{OPENID_CLIENT}", f"simple-oauth2@{SIMPLE_OAUTH2}")
        for name, version in [("openid-client", OPENID_CLIENT), ("simple-oauth2", SIMPLE_OAUTH2)]:
            program = modules / f"{name}.mjs"
            program.write_text(JAVASCRIPT_HEAD + JAVASCRIPT[name])
            command = (node() / "node", program)
            cells = [client(name, way, *command) for way in ("basic", "body")]
            needs = "nothing"
            if name == "openid-client":
                variables = {**values, "PLAIN_HTTP": "no"}
                done = run(*command, "basic", env={**environment(), **variables}, timeout=60)
                forbidden = "OAUTH_HTTP_REQUEST_FORBIDDEN" in done.stderr
                checks.that(forbidden, "openid-client needs a setting for plain http", done.stderr)
                needs = "`execute: [allowInsecureRequests]`"
            table.row(f"{name} (JavaScript)", version, [*cells, needs])
    except NotAvailable as error:
        checks.not_checked("openid-client, simple-oauth2", error)

    cargo = subprocess.run(["cargo", "build", "--quiet", "--example", "oauth2_client"], cwd=ROOT)
    program = os.path.join(os.path.dirname(programs["issuer"]), "oauth2_client")
    if checks.equal("the client with the oauth2 crate compiles", 0, cargo.returncode):
        cells = [client("oauth2", way, program) for way in ("basic", "body")]
        version = locked_version("oauth2")
        table.row("oauth2 (Rust)", version, [*cells, "nothing"])

    title = "boto3 (Python), `GetClientToken`"
    python("boto3", [f"boto3=={BOTO3}"], title, BOTO3, "`endpoint_url`, unsigned requests")
    table.check(checks, __file__)
    cross_origin(checks, values)


def locked_version(package):
    lock = (ROOT / "Cargo.lock").read_text()
    return re.search(rf'name = "{package}"\nversion = "(.*)"', lock)[1]


def paste(checks, help):
    """Runs the printed lines in a shell: the comment before a command says its status."""
    export = [line for line in help.splitlines() if line.startswith("export ")]
    if not checks.equal("one line to export", 1, len(export)):
        return
    expected = None
    for line in help.splitlines():
        if found := re.match(r"# (\d{3}): ", line):
            expected = found[1]
        elif line.startswith("curl "):
            done = run("bash", "-c", f"{export[0]}\n{line}", env=environment(), timeout=60)
            status = done.stdout.split(" ")[1] if done.stdout.startswith("HTTP/") else done.stderr
            checks.equal(f"pasted: {line[:90]}", expected, status)


def cross_origin(checks, values):
    """What a browser looks at before and after it sends a request from another origin."""
    url, origin = values["TOKEN_ENDPOINT_URL"], "https://app.example"
    answer = get(
        url,
        method="OPTIONS",
        origin=origin,
        access_control_request_method="POST",
        access_control_request_headers="authorization,content-type",
    )
    allowed = [answer.headers[f"access-control-allow-{name}"] for name in ("origin", "headers")]
    expected = (200, ["*", "authorization,content-type"])
    checks.equal("a preflight from another origin", expected, (answer.status, allowed))
    form = {
        "grant_type": "client_credentials",
        "client_id": values["CLIENT_ID"],
        "client_secret": values["CLIENT_SECRET"],
    }
    answer = get(
        url,
        method="POST",
        body=urllib.parse.urlencode(form),
        origin=origin,
        content_type="application/x-www-form-urlencoded",
    )
    allowed = answer.headers["access-control-allow-origin"]
    actual = (answer.status, allowed, json.loads(answer.body).get("token_type"))
    checks.equal("a token request from another origin", (200, "*", "Bearer"), actual)


main(script)
