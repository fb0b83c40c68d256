#!/usr/bin/env bash
# Package: cognitojwt 1.4.1 (PyPI), its synchronous form.
#
# The package fetches the JWK Set once per process and never again: the keys are in an `lru_cache`
# with room for one URL. After a rotation, every token of the new key is rejected until the process
# is restarted, and the error says nothing about keys that may be out of date. In a service with two
# pools, each change of pool pushes the other pool's keys out, so the fault is hidden and the
# endpoint is fetched each time.
#
# Expected: an unknown key ID leads to another fetch, perhaps after a pause; two pools stay cached.
# Seen (valid tokens of the configured app client; fetches so far):
#   old key                                accepted, 1
#   new key after the rotation, 3 times    Public key not found in jwks.json, 1
#   token of another pool                  accepted, 2
#   new key again                          accepted, 3
#   both pools in turns, 3 times each      accepted, 9
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install 'cognitojwt[sync]==1.4.1' joserfc==1.8.0
cat >"$dir/run.py" <<'PY'
import http.server, json, threading, time
import cognitojwt, cognitojwt.jwt_sync
from joserfc import jwk, jwt

client, pools = "1example23456789", ("eu-west-1_Example12", "eu-west-1_Another34")
old, new = (jwk.RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}) for kid in ("old", "new"))
published, fetches = [old], 0

class Keys(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global fetches
        fetches += 1
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({"keys": [key.as_dict(private=False) for key in published]}).encode())
    def log_message(self, *_): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
# The only change: the pools are on loopback instead of amazonaws.com.
cognitojwt.jwt_sync.PUBLIC_KEYS_URL_TEMPLATE = base + "/{}/{}"

def token(key, pool=pools[0]):
    now = int(time.time())
    claims = {"sub": client, "client_id": client, "token_use": "access", "scope": "shop/read", "iat": now, "exp": now + 3600}
    claims["iss"] = "https://cognito-idp.eu-west-1.amazonaws.com/" + pool
    return jwt.encode({"kid": key.kid, "alg": "RS256"}, claims, key)

def seen(what, verify):
    try: verify(); result = "accepted"
    except Exception as error: result = str(error)
    print(what, "|", result, "| fetches", fetches)
    return result, fetches

def plain(key, pool=pools[0]):
    return lambda: cognitojwt.decode(token(key, pool), "eu-west-1", pool, app_client_id=client)

unknown = "Public key not found in jwks.json"
assert seen("cognitojwt, old key", plain(old)) == ("accepted", 1)
published.append(new)
for _ in range(3): assert seen("cognitojwt, new key", plain(new)) == (unknown, 1)
assert seen("cognitojwt, another pool", plain(old, pools[1])) == ("accepted", 2)
assert seen("cognitojwt, new key", plain(new)) == ("accepted", 3)
for count in (4, 6, 8):
    assert seen("cognitojwt, another pool", plain(old, pools[1])) == ("accepted", count)
    assert seen("cognitojwt, first pool", plain(old)) == ("accepted", count + 1)
PY
"$dir/venv/bin/python" -W ignore "$dir/run.py"
