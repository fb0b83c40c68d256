#!/usr/bin/env python3
"""Runs the table of the page `api_gateway` against the API Gateway of ministack, a local emulator: a REST
API with Cognito's authorizer, an HTTP API with a JWT authorizer, and both with the Lambda authorizer of
examples/lambda."""
# ci: all waits: the lines with FAIL say which API answered otherwise; or pip has to reach PyPI

import base64
import json
import re
import threading
import urllib.parse
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness import (
    build,
    environment,
    free_port,
    listens,
    main,
    pypi,
    run,
    send,
    start,
    temporary_folder,
)
from results import Table

VERSION = "1.5.33"

# Creates the pool and the four APIs. The settings are in argv; it prints what the script needs.
SETUP = r"""
import json, sys, boto3
port, backend, archive = sys.argv[1:]
url = f"http://127.0.0.1:{port}"
def client(name):
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(name, endpoint_url=url, region_name="us-east-1", **keys)
cognito, rest, http, functions = map(client, ("cognito-idp", "apigateway", "apigatewayv2", "lambda"))
pool = cognito.create_user_pool(PoolName="pool")["UserPool"]
pool_id = pool["Id"]
for identifier, names in (("activity", ("*", "write", "read")), ("demo-dev", ("read",))):
    cognito.create_resource_server(
        UserPoolId=pool_id, Identifier=identifier, Name=identifier,
        Scopes=[{"ScopeName": one, "ScopeDescription": one} for one in names])
def machine(*scopes):
    it = cognito.create_user_pool_client(
        UserPoolId=pool_id, ClientName="machine", GenerateSecret=True,
        AllowedOAuthFlows=["client_credentials"], AllowedOAuthFlowsUserPoolClient=True,
        AllowedOAuthScopes=list(scopes))["UserPoolClient"]
    return [it["ClientId"], it["ClientSecret"]]
every = ["activity/*", "activity/write", "activity/read", "demo-dev/read"]
clients = {"client": machine(*every), "another": machine(*every)}
users = cognito.create_user_pool_client(
    UserPoolId=pool_id, ClientName="users", ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH"])
users = users["UserPoolClient"]["ClientId"]
cognito.admin_create_user(UserPoolId=pool_id, Username="alice", MessageAction="SUPPRESS")
cognito.admin_set_user_password(
    UserPoolId=pool_id, Username="alice", Password="Passw0rd!Passw0rd!", Permanent=True)
tokens = cognito.initiate_auth(
    ClientId=users, AuthFlow="USER_PASSWORD_AUTH",
    AuthParameters={"USERNAME": "alice", "PASSWORD": "Passw0rd!Passw0rd!"})["AuthenticationResult"]

arn = "arn:aws:lambda:us-east-1:000000000000:function:authorizer"
functions.create_function(
    FunctionName="authorizer", Runtime="provided.al2023", Handler="bootstrap",
    Role="arn:aws:iam::000000000000:role/lambda", Code={"ZipFile": open(archive, "rb").read()},
    Timeout=10, Environment={"Variables": {
        "COGNITO_USER_POOL_ID": pool_id, "COGNITO_CLIENT_IDS": clients["client"][0],
        "COGNITO_JWKS_URL": f"{url}/{pool_id}/.well-known/jwks.json"}})
uri = f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{arn}/invocations"

ROUTES = [("POST", "activity", ["activity/*", "activity/write"]), ("GET", "item", ["demo-dev/read"]),
          ("GET", "open", None)]
def rest_api(name, authorization, **authorizer):
    api = rest.create_rest_api(name=name)["id"]
    root = rest.get_resources(restApiId=api)["items"][0]["id"]
    made = rest.create_authorizer(
        restApiId=api, name=name, identitySource="method.request.header.Authorization", **authorizer)
    for method, path, scopes in ROUTES:
        at = rest.create_resource(restApiId=api, parentId=root, pathPart=path)["id"]
        more = {"authorizationScopes": scopes} if scopes and authorization != "CUSTOM" else {}
        rest.put_method(restApiId=api, resourceId=at, httpMethod=method,
            authorizationType=authorization, authorizerId=made["id"], **more)
        rest.put_integration(restApiId=api, resourceId=at, httpMethod=method, type="HTTP_PROXY",
            integrationHttpMethod=method, uri=f"{backend}/{path}")
    rest.create_deployment(restApiId=api, stageName="prod")
    return f"/restapis/{api}/prod/_user_request_"
def http_api(name, authorization, **authorizer):
    api = http.create_api(Name=name, ProtocolType="HTTP")["ApiId"]
    made = http.create_authorizer(ApiId=api, Name=name, **authorizer)["AuthorizerId"]
    for method, path, scopes in ROUTES:
        it = http.create_integration(
            ApiId=api, IntegrationType="HTTP_PROXY", IntegrationUri=f"{backend}/{path}",
            IntegrationMethod=method, PayloadFormatVersion="1.0")["IntegrationId"]
        more = {"AuthorizationScopes": scopes} if scopes and authorization == "JWT" else {}
        http.create_route(ApiId=api, RouteKey=f"{method} /{path}", Target=f"integrations/{it}",
            AuthorizationType=authorization, AuthorizerId=made, **more)
    http.create_stage(ApiId=api, StageName="$default", AutoDeploy=True)
    return api
header = ["$request.header.Authorization"]
apis = {
    "REST, Cognito": rest_api("cognito", "COGNITO_USER_POOLS", type="COGNITO_USER_POOLS",
        providerARNs=[pool["Arn"]]),
    "REST, Lambda": rest_api("lambda", "CUSTOM", type="TOKEN", authorizerUri=uri,
        authorizerResultTtlInSeconds=0),
    "HTTP, JWT": http_api("jwt", "JWT", AuthorizerType="JWT", IdentitySource=header,
        JwtConfiguration={"Issuer": f"https://cognito-idp.us-east-1.amazonaws.com/{pool_id}",
            "Audience": [clients["client"][0], users]}),
    "HTTP, Lambda": http_api("http-lambda", "CUSTOM", AuthorizerType="REQUEST", AuthorizerUri=uri,
        IdentitySource=[*header, "$context.routeKey"], AuthorizerPayloadFormatVersion="2.0",
        EnableSimpleResponses=True, AuthorizerResultTtlInSeconds=0),
}
print(json.dumps({"apis": apis, "clients": clients, "id_token": tokens["IdToken"]}))
"""


class Backend(BaseHTTPRequestHandler):
    def answer(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


def token(port, client, scope):
    """Gets a machine token by the client credentials grant."""
    basic = base64.b64encode(":".join(client).encode()).decode()
    form = urllib.parse.urlencode({"grant_type": "client_credentials", "scope": scope})
    headers = [f"Authorization: Basic {basic}", "Content-Type: application/x-www-form-urlencoded"]
    answer = send(port, "POST", "/oauth2/token", headers, form.encode(), host=f"localhost:{port}")
    return json.loads(answer.body)["access_token"]


def script(checks):
    venv = pypi(f"ministack=={VERSION}", "boto3==1.43.106", "cryptography==50.0.2")
    programs = build("tower-cognito-lambda")
    backend = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    port = free_port()
    with temporary_folder() as folder:
        settings = environment(
            GATEWAY_PORT=str(port),
            BIND_HOST="127.0.0.1",
            STATE_DIR=str(folder / "state"),
            S3_DATA_DIR=str(folder / "s3"),
            TMPDIR=str(folder),
            HOME=str(folder),
        )
        with open(folder / "log", "wb") as log:
            ministack = start(
                venv.program("ministack"), env=settings, cwd=folder, stdout=log, stderr=log
            )
        if not checks.that(listens(port, ministack), "ministack starts", Path(log.name).read_text()):
            return
        archive = folder / "authorizer.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as it:
            it.write(programs["authorizer"], "bootstrap")
        origin = f"http://127.0.0.1:{backend.server_port}"
        done = run(venv.python, "-c", SETUP, port, origin, archive)
        if not checks.that(done.returncode == 0, "the pool and the APIs are created", done.stderr):
            return
        table(checks, port, json.loads(done.stdout))


def table(checks, port, made):
    client, another = made["clients"]["client"], made["clients"]["another"]

    def bearer(*arguments):
        return f"Bearer {token(port, *arguments)}"

    write = bearer(client, "activity/write")
    read = bearer(client, "activity/read")
    items = bearer(client, "demo-dev/read")
    stranger = bearer(another, "activity/write")
    ID = f"Bearer {made['id_token']}"
    broken = re.sub(r"\.([^.]{8})[^.]*$", r".\1", write)
    names = ("REST, Cognito", "HTTP, JWT", "REST, Lambda", "HTTP, Lambda")
    # The statuses of these four APIs. ministack answers 500 to every error of the authorizer of an HTTP
    # API, also to `Unauthorized`; AWS's page does not mention that text for HTTP APIs.
    rows = [
        ("without a token", "POST", "activity", None, 401, 401, 401, 401),
        ("an invalid token", "POST", "activity", broken, 401, 401, 401, 500),
        ("none of the required scopes", "POST", "activity", read, 401, 403, 403, 403),
        ("the required scope", "GET", "item", items, 200, 200, 200, 200),
        # The table of the authorizer requires `activity/*`.
        ("one of several scopes", "POST", "activity", write, 200, 200, 403, 403),
        ("an ID token, no scope is required", "GET", "open", ID, 200, 200, 401, 500),
        # AWS documents 401 for a REST API. No row of the authorizer's table has this path.
        ("an access token, no scope is required", "GET", "open", write, 200, 200, 403, 403),
        ("another client", "POST", "activity", stranger, 200, 401, 401, 500),
        ("without Bearer", "GET", "item", items.removeprefix("Bearer "), 200, 200, 401, 500),
    ]
    seen = Table("api_gateway", list(names))
    for what, method, path, authorization, *expected in rows:
        statuses = []
        for name, status in zip(names, expected):
            api = made["apis"][name]
            target, host = f"{api}/{path}", f"localhost:{port}"
            if name.startswith("HTTP"):
                target, host = f"/{path}", f"{api}.execute-api.localhost:{port}"
            headers = [f"Authorization: {authorization}"] if authorization else []
            answer = send(port, method, target, headers, host=host, within=60)
            checks.equal(f"{name}: {what}", status, answer.status)
            statuses.append(str(answer.status))
        seen.row(what, f"ministack {VERSION}", statuses)
    seen.check(checks, __file__)


main(script)
