#!/usr/bin/env bash
# Package: fastmcp 4.2.3 on mcp 2.3.0 (both PyPI), the JWTVerifier of FastMCP.
#
# A valid token that lacks a required scope is answered with 401 `invalid_token`, like a forged one,
# and not with 403 `insufficient_scope` (RFC 6750 section 3.1; the MCP specification says the same).
# The verifier checks its `required_scopes` itself and reports the token as invalid. The mcp package
# below it answers 403 correctly: a subclass whose verifier leaves the scope check to it gets that.
#
# Expected: 403 error="insufficient_scope" for the second row.
# Seen (server requires shop/read):
#   token with shop/read                     200
#   valid token with only shop/write         401 error="invalid_token", "... clear authentication
#                                            tokens in your MCP client and reconnect ..."
#   token signed by another key              401 error="invalid_token", the same text
#   valid token with only shop/write,
#     scope check left to the mcp package    403 error="insufficient_scope"
#
# A client cannot tell a missing permission from a bad token. It is told to discard a valid token and
# to sign in again, which cannot help, and a client that reacts to 403 never asks for more scopes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install fastmcp==4.2.3 mcp==2.3.0 joserfc==1.8.0
cat >"$dir/run.py" <<'PY'
import time
from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import JWTVerifier
from joserfc import jwk, jwt
from starlette.testclient import TestClient

client, iss = "1example23456789", "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Example12"
key, other = jwk.RSAKey.generate_key(2048), jwk.RSAKey.generate_key(2048)
pem = key.as_pem(private=False).decode()

def token(scope, signer):
    now = int(time.time())
    claims = {"sub": client, "token_use": "access", "scope": scope, "auth_time": now, "iss": iss, "exp": now + 3600,
              "iat": now, "version": 2, "jti": "example", "client_id": client}
    return jwt.encode({"kid": "example-key", "alg": "RS256"}, claims, signer)

class ScopeLater(JWTVerifier):  # verifies without scopes; the mcp package then checks required_scopes
    async def verify_token(self, text):
        return await JWTVerifier(public_key=pem, issuer=iss).verify_token(text)

def post(auth, text):
    call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "example", "version": "1"}}}
    with TestClient(FastMCP("example", auth=auth).http_app(path="/mcp", stateless_http=True, json_response=True)) as http:
        r = http.post("/mcp", json=call, headers={"accept": "application/json, text/event-stream", "authorization": "Bearer " + text})
    print(r.status_code, r.headers.get("www-authenticate"))
    return r.status_code, (r.headers.get("www-authenticate") or "").split(",")[0]

usual = JWTVerifier(public_key=pem, issuer=iss, required_scopes=["shop/read"])
later = ScopeLater(public_key=pem, issuer=iss, required_scopes=["shop/read"])
assert post(usual, token("shop/read", key))[0] == 200
assert post(usual, token("shop/write", key)) == (401, 'Bearer error="invalid_token"')
assert post(usual, token("shop/read", other)) == (401, 'Bearer error="invalid_token"')
assert post(later, token("shop/write", key)) == (403, 'Bearer error="insufficient_scope"')
PY
"$dir/venv/bin/python" -W ignore "$dir/run.py"
