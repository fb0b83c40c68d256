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

class OAuthClient:
    """A client with the program that prints its token. `ways` are those of "basic" and "body" that it has.
    `needs` is what it needs for plain http, as on the page, and what it says without it."""

    def __init__(self, package, program, ways=("basic", "body"), needs=None, more=()):
        self.name, self.version = re.split("==|(?<=.)@", package)
        self.packages = [package, *more]
        self.program, self.ways, self.needs = program, ways, needs

    def language(self):
        return "Python" if "==" in self.packages[0] else "JavaScript"


PYTHON_HEAD = """
import os, sys
ID, SECRET, URL = (os.environ[name] for name in ("CLIENT_ID", "CLIENT_SECRET", "TOKEN_ENDPOINT_URL"))
API, WAY, PLAIN_HTTP = os.environ["API_URL"], sys.argv[1], "PLAIN_HTTP" not in os.environ
form = {"grant_type": "client_credentials"}
body = {"client_id": ID, "client_secret": SECRET}
"""
JAVASCRIPT_HEAD = """
const { CLIENT_ID: ID, CLIENT_SECRET: SECRET, TOKEN_ENDPOINT_URL: URL_ } = process.env;
const WAY = process.argv[2], PLAIN_HTTP = process.env.PLAIN_HTTP === undefined;
const server = new URL(URL_).origin;
"""
# It asks the API itself.
AUTH_CLASS = """
answer = {0}.get(API, auth={1}.OAuth2ClientCredentials(URL, ID, SECRET))
print(answer.request.headers["Authorization"].removeprefix("Bearer "))
"""
REQUESTS = """
import {0} as requests
auth = requests.auth.HTTPBasicAuth(ID, SECRET) if WAY == "basic" else None
answer = requests.post(URL, data=form if auth else form | body, auth=auth, timeout=20)
answer.raise_for_status()
print(answer.json()["access_token"])
"""
CLIENTS = [
    OAuthClient("requests==2.34.2", REQUESTS.format("requests")),
    OAuthClient("niquests==3.21.2", REQUESTS.format("niquests")),
    OAuthClient(
        "aiohttp==3.14.5",
        """
import aiohttp, asyncio
async def main():
    auth = aiohttp.BasicAuth(ID, SECRET) if WAY == "basic" else None
    async with aiohttp.ClientSession() as session:
        async with session.post(URL, data=form if auth else form | body, auth=auth) as answer:
            print((await answer.json())["access_token"])
asyncio.run(main())
""",
    ),
    OAuthClient(
        "Authlib==1.9.10",
        """
from authlib.integrations.requests_client import OAuth2Session
method = {"basic": "client_secret_basic", "body": "client_secret_post"}[WAY]
session = OAuth2Session(ID, SECRET, token_endpoint_auth_method=method)
print(session.fetch_token(URL, grant_type="client_credentials")["access_token"])
""",
        more=["requests==2.34.2"],
    ),
    OAuthClient(
        "requests-oauthlib==2.0.0",
        """
if PLAIN_HTTP:
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session
session = OAuth2Session(client=BackendApplicationClient(client_id=ID))
how = {"basic": {"client_id": ID}, "body": {"include_client_id": True}}[WAY]
print(session.fetch_token(URL, client_secret=SECRET, **how)["access_token"])
""",
        needs=("`OAUTHLIB_INSECURE_TRANSPORT=1`", "InsecureTransportError"),
        more=["oauthlib==4.0.1"],
    ),
    OAuthClient(
        "requests-oauth2client==1.8.0",
        """
from requests_oauth2client import ClientSecretBasic, ClientSecretPost, OAuth2Client
auth = {"basic": ClientSecretBasic, "body": ClientSecretPost}[WAY](ID, SECRET)
print(OAuth2Client(URL, auth=auth, testing=PLAIN_HTTP).client_credentials().access_token)
""",
        needs=("`testing=True`", "must use https"),
    ),
    OAuthClient(
        "httpx-auth==0.23.1",
        "import httpx, httpx_auth" + AUTH_CLASS.format("httpx", "httpx_auth"),
        ["basic"],
    ),
    OAuthClient(
        "requests-auth==8.0.0",
        "import requests, requests_auth" + AUTH_CLASS.format("requests", "requests_auth"),
        ["basic"],
    ),
    OAuthClient(
        "openid-client@6.9.0",
        """
import * as client from 'openid-client';
const issuer = new URL('/us-east-1_TestIssuer', URL_);
const auth = WAY === 'basic' ? client.ClientSecretBasic(SECRET) : client.ClientSecretPost(SECRET);
const execute = PLAIN_HTTP ? [client.allowInsecureRequests] : [];
const config = await client.discovery(issuer, ID, undefined, auth, { execute });
console.log((await client.clientCredentialsGrant(config)).access_token);
""",
        needs=("`execute: [allowInsecureRequests]`", "OAUTH_HTTP_REQUEST_FORBIDDEN"),
    ),
    OAuthClient(
        "oauth4webapi@3.8.8",
        """
import * as oauth from 'oauth4webapi';
const issuer = { issuer: server, token_endpoint: URL_ }, client = { client_id: ID };
const auth = WAY === 'basic' ? oauth.ClientSecretBasic(SECRET) : oauth.ClientSecretPost(SECRET);
const options = { [oauth.allowInsecureRequests]: PLAIN_HTTP };
const answer = await oauth.clientCredentialsGrantRequest(issuer, client, auth, {}, options);
console.log((await oauth.processClientCredentialsResponse(issuer, client, answer)).access_token);
""",
        needs=("`[allowInsecureRequests]: true`", "OAUTH_HTTP_REQUEST_FORBIDDEN"),
    ),
    OAuthClient(
        "simple-oauth2@5.1.0",
        """
import { ClientCredentials } from 'simple-oauth2';
const client = new ClientCredentials({
  client: { id: ID, secret: SECRET },
  auth: { tokenHost: server, tokenPath: '/oauth2/token' },
  options: { authorizationMethod: WAY === 'basic' ? 'header' : 'body' },
});
console.log((await client.getToken({})).token.access_token);
""",
    ),
    OAuthClient(
        "@badgateway/oauth2-client@3.3.1",
        """
import { OAuth2Client } from '@badgateway/oauth2-client';
const authenticationMethod = { basic: 'client_secret_basic', body: 'client_secret_post' }[WAY];
const own = { clientId: ID, clientSecret: SECRET, authenticationMethod };
const client = new OAuth2Client({ ...own, server, tokenEndpoint: '/oauth2/token' });
console.log((await client.clientCredentials()).accessToken);
""",
    ),
    OAuthClient(
        "client-oauth2@4.3.3",
        """
import ClientOAuth2 from 'client-oauth2';
const client = new ClientOAuth2({ clientId: ID, clientSecret: SECRET, accessTokenUri: URL_ });
console.log((await client.credentials.getToken()).accessToken);
""",
        ["basic"],
    ),
    OAuthClient(
        "axios-oauth-client@2.2.0",
        """
import axios from 'axios';
import { clientCredentials } from 'axios-oauth-client';
console.log((await clientCredentials(axios.create(), URL_, ID, SECRET)()).access_token);
""",
        ["body"],
        more=["axios@1.21.1"],
    ),
    OAuthClient(
        "oauth@0.10.2",
        """
import oauth from 'oauth';
const client = new oauth.OAuth2(ID, SECRET, server, null, '/oauth2/token');
client.getOAuthAccessToken('', { grant_type: 'client_credentials' }, (error, token) => {
  if (error) throw new Error(JSON.stringify(error));
  console.log(token);
});
""",
        ["body"],
    ),
]
BOTO3 = OAuthClient(
    "boto3==1.44.8",
    """
import boto3
from botocore import UNSIGNED
from botocore.config import Config
client = boto3.client("cognito-idp", region_name="us-east-1",
    endpoint_url=URL.removesuffix("/oauth2/token"), config=Config(signature_version=UNSIGNED))
answer = client.get_client_token(ClientId=ID, Secret=SECRET)
print(answer["ClientAuthenticationResult"]["AccessToken"])
""",
    ["GetClientToken"],
)
# The methods of its client that have to do with this grant.
HTTPX_OAUTH = "from httpx_oauth.oauth2 import BaseOAuth2; print([n for n in dir(BaseOAuth2) if 'credentials' in n])"


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

    table = Table("oauth_clients", ["HTTP Basic", "in the body", "for plain http it needs"])

    def answers(name, way, *command):
        """Returns whether the client gets a token that the API accepts."""
        done = run(*command, way, env={**environment(), **values}, timeout=60)
        token = done.stdout.strip()
        answer = get(values["API_URL"], token=token) if done.returncode == 0 else None
        served = answer is not None and (answer.status, answer.body) == (200, ITEMS)
        detail = (done.stdout + done.stderr).strip()[-400:] if answer is None else answer.status
        checks.that(served, f"{name}, {way}: the API accepts its token", detail)
        return "works" if served else "fails"

    def cells(client, command):
        needs = "nothing"
        if client.needs:
            needs, error = client.needs
            variables = {**environment(), **values, "PLAIN_HTTP": "no"}
            done = run(*command, client.ways[0], env=variables, timeout=60)
            checks.contains(f"{client.name} needs a setting for plain http", done.stderr, error)
        works = {way: answers(client.name, way, *command) for way in client.ways}
        return [works.get("basic", "–"), works.get("body", "–"), needs]

    def python(client):
        program = folder / f"{client.name}.client.py"
        program.write_text(PYTHON_HEAD + client.program)
        return (pypi(*client.packages).python, program)

    scripts = [client for client in CLIENTS if client.language() == "JavaScript"]
    for client in CLIENTS:
        try:
            if client in scripts:
                modules = npm(*(package for client in scripts for package in client.packages))
                program = modules / f"{client.name.replace('/', '-')}.mjs"
                program.write_text(JAVASCRIPT_HEAD + client.program)
                command = (node() / "node", program)
            else:
                command = python(client)
        except NotAvailable as error:
            checks.not_checked(client.name, error)
            continue
        table.row(f"{client.name} ({client.language()})", client.version, cells(client, command))

    cargo = subprocess.run(["cargo", "build", "--quiet", "--example", "oauth2_client"], cwd=ROOT)
    program = os.path.join(os.path.dirname(programs["issuer"]), "oauth2_client")
    if checks.equal("the client with the oauth2 crate compiles", 0, cargo.returncode):
        seen = [answers("oauth2", way, program) for way in ("basic", "body")]
        table.row("oauth2 (Rust)", locked_version("oauth2"), [*seen, "nothing"])

    try:
        seen = answers("boto3", "GetClientToken", *python(BOTO3))
        title, needs = "boto3 (Python), `GetClientToken`", "`endpoint_url`, unsigned requests"
        table.row(title, BOTO3.version, ["–", f"{seen}, as JSON", needs])
        done = run(pypi("httpx-oauth==0.17.0").python, "-c", HTTPX_OAUTH)
        checks.equal("httpx-oauth has no client credentials grant", "[]", done.stdout.strip())
        table.row("httpx-oauth (Python)", "0.17.0", ["no such grant", "no such grant", "–"])
    except NotAvailable as error:
        checks.not_checked("boto3, httpx-oauth", error)
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
