#!/usr/bin/env bash
# Package: requests-auth 8.0.0 with requests 2.34.2 (PyPI), its class OAuth2ClientCredentials.
#
# If a token response has no `expires_in` (RFC 6749 section 5.1 only recommends that member), the
# package reads `exp` from the token, if that is a JWT. It decodes the claims as standard base64
# instead of base64url, and undoes backslash escapes before it parses the JSON. If the claims contain
# `-` or `_` in base64url, or an escaped quote, requests.get raises an exception and sends nothing to
# the API. In ASCII text, `-` or `_` occurs if a `?`, `>` or `~` is at a position that three divides.
#
# Expected: each token is sent. httpx-auth 0.23.1, which shares the design, does that.
# Seen (all tokens are well-formed; result of requests.get, requests that reached the API):
#   usual claims                                        200               1
#   and "a": "https://api.example/?"                    binascii.Error    0
#   and "ab": "https://api.example/?"                   200               1
#   and "abc": "https://api.example/?"                  200               1
#   and "permissions": "[\"read\"]" (JSON in a string)  JSONDecodeError   0
#   each of them, with expires_in                       200               1
#
# A client works until the issuer adds or renames a claim. The length of the issuer and of the client
# ID moves the positions, so one environment can fail while another works.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install requests-auth==8.0.0 requests==2.34.2 httpx-auth==0.23.1 httpx==0.28.1
cat >"$dir/run.py" <<'PY'
import base64, http.server, json, threading
import httpx, httpx_auth, requests, requests_auth

token, extra, sent = "", {}, []
class Servers(http.server.BaseHTTPRequestHandler):
    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200); self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data))); self.end_headers(); self.wfile.write(data)
    def do_POST(self):  # the token endpoint
        self.rfile.read(int(self.headers["content-length"]))
        self.reply({"access_token": token, "token_type": "Bearer"} | extra)
    def do_GET(self):  # the API
        sent.append(self.headers["authorization"])
        self.reply("the API")
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Servers)
threading.Thread(target=server.serve_forever, daemon=True).start()
home = f"http://127.0.0.1:{server.server_port}"

def part(value): return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")
def get(package, client, claims, more):
    global token, extra
    usual = {"sub": "1example23456789", "client_id": "1example23456789", "token_use": "access", "scope": "shop/read",
             "iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Example12", "exp": 4102444800}
    token, extra = ".".join([part({"alg": "RS256", "kid": "example-key"}), part(usual | claims), "c2lnbmF0dXJl"]), more
    sent.clear(); package.OAuth2.token_cache.clear()
    auth = package.OAuth2ClientCredentials(home + "/oauth2/token", client_id="1example23456789", client_secret="notarealsecret0123456789")
    try: result = client.get(home + "/orders", auth=auth).status_code
    except ValueError as error: result = type(error).__name__
    print(package.__name__, "|", json.dumps(claims), "|", json.dumps(more), "|", result, "|", len(sent))
    assert sent in ([], ["Bearer " + token])
    return result, len(sent)

url = "https://api.example/?"
for claims, expected in (({}, (200, 1)), ({"a": url}, ("Error", 0)), ({"ab": url}, (200, 1)), ({"abc": url}, (200, 1)),
                         ({"permissions": '["read"]'}, ("JSONDecodeError", 0))):
    assert get(requests_auth, requests, claims, {}) == expected
    assert get(requests_auth, requests, claims, {"expires_in": 3600}) == (200, 1)
    assert get(httpx_auth, httpx, claims, {}) == (200, 1)
PY
"$dir/venv/bin/python" -W ignore "$dir/run.py"
