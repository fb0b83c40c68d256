#!/usr/bin/env bash
# Package: fastmcp 4.2.3 (PyPI), its provider for Amazon Cognito.
#
# `AWSCognitoProvider` protects an MCP server with a user pool, but the server then rejects every
# access token that the pool issues, for users and for machines, although the provider's own
# `get_token_verifier()` accepts the same tokens. The provider is an OAuth proxy: it only accepts
# tokens that it has issued itself, after a sign-in in a browser. Its token endpoint offers no
# client credentials grant.
#
# Expected: 200 for an access token of the configured app client with the required scope.
# Seen:
#   get_token_verifier().verify_token(token)   accepted, machine and user token
#   POST /mcp, machine token                   401 error="invalid_token", scope="shop/read"
#   POST /mcp, user token                      401 error="invalid_token", scope="shop/read"
#   POST /token grant_type=client_credentials  400 invalid_request
#   POST /mcp with JWTVerifier instead         200
#
# The 401 names the scope that the token has, and its text tells users to delete their tokens and
# register again. For machine clients, use RemoteAuthProvider or JWTVerifier instead.
# Only the discovery document is replaced here, because its address is fixed to AWS.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install fastmcp==4.2.3 mcp==2.3.0 joserfc==1.8.0
cat >"$dir/run.py" <<'PY'
import asyncio, http.server, json, threading, time
from fastmcp import FastMCP
from fastmcp.server.auth.oidc_proxy import OIDCConfiguration, OIDCProxy
from fastmcp.server.auth.providers.aws import AWSCognitoProvider
from fastmcp.server.auth.providers.jwt import JWTVerifier
from joserfc import jwk, jwt
from key_value.aio.stores.memory import MemoryStore
from starlette.testclient import TestClient
pool, client, home = "eu-west-1_Example12", "1example23456789", "http://localhost:8000"
iss, domain = "https://cognito-idp.eu-west-1.amazonaws.com/" + pool, "https://example.auth.eu-west-1.amazoncognito.com"
key = jwk.RSAKey.generate_key(2048, {"kid": "example-key", "use": "sig", "alg": "RS256"})
class Keys(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({"keys": [key.as_dict(private=False)]}).encode())
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
threading.Thread(target=server.serve_forever, daemon=True).start()
jwks = f"http://127.0.0.1:{server.server_port}/jwks.json"
OIDCProxy.get_oidc_configuration = lambda *_, **__: OIDCConfiguration(
    issuer=iss, authorization_endpoint=domain + "/oauth2/authorize", token_endpoint=domain + "/oauth2/token", jwks_uri=jwks,
    response_types_supported=["code"], subject_types_supported=["public"], id_token_signing_alg_values_supported=["RS256"])
def token(**more):
    now = int(time.time())
    claims = {"sub": client, "token_use": "access", "scope": "shop/read", "auth_time": now, "iss": iss, "exp": now + 3600,
              "iat": now, "version": 2, "jti": "example", "client_id": client}
    return jwt.encode({"kid": "example-key", "alg": "RS256"}, claims | more, key)

machine, user = token(), token(sub="example-user", username="example-user")
provider = AWSCognitoProvider(user_pool_id=pool, aws_region="eu-west-1", client_id=client, client_secret="notarealsecret0123456789",
                              base_url=home, required_scopes=["shop/read"], client_storage=MemoryStore())
verifier = provider.get_token_verifier(algorithm="RS256", required_scopes=["shop/read"])
for each in machine, user:
    assert asyncio.run(verifier.verify_token(each)).scopes == ["shop/read"]

def post(auth, *tokens):
    call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "example", "version": "1"}}}
    with TestClient(FastMCP("example", auth=auth).http_app(path="/mcp", stateless_http=True, json_response=True), base_url=home) as http:
        grant = http.post("/token", data={"grant_type": "client_credentials", "client_id": client, "client_secret": "notarealsecret0123456789"})
        head = {"accept": "application/json, text/event-stream"}
        return [http.post("/mcp", json=call, headers=head | {"authorization": "Bearer " + t}) for t in tokens], grant
got, grant = post(provider, machine, user)
for r in got:
    print(r.status_code, r.headers["www-authenticate"])
    assert r.status_code == 401 and 'error="invalid_token"' in r.headers["www-authenticate"] and 'scope="shop/read"' in r.headers["www-authenticate"]
print(grant.status_code, grant.text)
assert grant.status_code == 400 and grant.json()["error"] == "invalid_request"
assert post(JWTVerifier(jwks_uri=jwks, issuer=iss, required_scopes=["shop/read"]), machine)[0][0].status_code == 200
PY
"$dir/venv/bin/python" -W ignore "$dir/run.py"
