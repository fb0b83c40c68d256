#!/usr/bin/env bash
# Package: fastapi-cognito 2.10.0 (PyPI) with fastapi 0.165.0.
#
# A valid access token from the client credentials grant is answered with 500 Internal Server Error.
# The package verifies the token (signature, issuer, client, expiry) and then fills a Pydantic model
# in which `username` is required. Machine tokens have no such claim. The ValidationError is raised
# inside the dependency, so FastAPI treats it as a fault of the server. `auth_optional` does the same.
#
# Expected: 200, or at least 401 or 403.
# Seen (all tokens are signed by the pool's key and belong to the configured app client):
#   user token, with username                    200
#   machine token, no username                   500 ValidationError: username Field required
#   machine token, auth_optional                 500 the same
#   machine token, a custom_model without it     200
#   machine token of another app client          401
#
# The first machine client of an API that only had users so far sees 500, retries it as a server
# error, and raises alarms. Give CognitoAuth a `custom_model` in which `username` is optional.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install fastapi-cognito==2.10.0 joserfc==1.8.0 fastapi==0.165.0
cat >"$dir/run.py" <<'PY'
import http.server, json, threading, time
from typing import Optional
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from fastapi_cognito import CognitoAuth
from fastapi_cognito.models import CognitoToken
from joserfc import jwk, jwt
from pydantic import ValidationError

pool, client = "eu-west-1_Example12", "1example23456789"
iss = "https://cognito-idp.eu-west-1.amazonaws.com/" + pool
key = jwk.RSAKey.generate_key(2048, {"kid": "example-key", "use": "sig", "alg": "RS256"})

class Keys(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-type", "application/json"); self.end_headers()
        self.wfile.write(json.dumps({"keys": [key.as_dict(private=False)]}).encode())
    def log_message(self, *_): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
threading.Thread(target=server.serve_forever, daemon=True).start()

class Settings:
    check_expiration, jwt_header_prefix, jwt_header_name = True, "Bearer", "Authorization"
    userpools = {"example": {"region": "eu-west-1", "userpool_id": pool, "app_client_id": client,
                             "jwks_url": f"http://127.0.0.1:{server.server_port}/jwks.json"}}

class Either(CognitoToken):
    username: Optional[str] = None

def token(**more):
    now = int(time.time())
    claims = {"sub": client, "token_use": "access", "scope": "shop/read", "auth_time": now, "iss": iss, "exp": now + 3600,
              "iat": now, "version": 2, "jti": "example", "client_id": client}
    return jwt.encode({"kid": "example-key", "alg": "RS256"}, claims | more, key)

usual, either, app = CognitoAuth(settings=Settings()), CognitoAuth(settings=Settings(), custom_model=Either), FastAPI()
for path, need in {"/required": usual.auth_required, "/optional": usual.auth_optional, "/custom": either.auth_required}.items():
    app.get(path)(lambda token=Depends(need): {"client": token.client_id})

def get(path, text):
    status = TestClient(app, raise_server_exceptions=False).get(path, headers={"authorization": "Bearer " + text}).status_code
    print(path, status)
    return status

machine = token()
assert get("/required", token(username="example-user")) == 200
assert get("/required", machine) == 500 and get("/optional", machine) == 500
assert get("/custom", machine) == 200
assert get("/required", token(client_id="2another3456789", sub="2another3456789")) == 401
try: TestClient(app).get("/required", headers={"authorization": "Bearer " + machine}); raise SystemExit("no error")
except ValidationError as error: assert [(e["loc"], e["type"]) for e in error.errors()] == [(("username",), "missing")]; print(error)
PY
"$dir/venv/bin/python" -W ignore "$dir/run.py"
