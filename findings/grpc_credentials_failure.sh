#!/usr/bin/env bash
# Packages: grpcio 1.85.3 (PyPI) and @grpc/grpc-js 1.14.7 (npm).
#
# Call credentials run a callback before each call, which gets a token (AuthMetadataPlugin in Python,
# createFromMetadataGenerator in Node.js). If the callback reports an error, because the token endpoint
# rejects the client, grpcio ends the call with UNAVAILABLE and grpc-js with UNKNOWN. gRPC's own table of
# status codes says UNAUTHENTICATED for credentials that failed to get metadata (doc/statuscodes.md).
# With the usual retry policy, for UNAVAILABLE, grpcio repeats the token request for each attempt.
#
# Expected: UNAUTHENTICATED from both, and one token request for a call.
# Seen (the token endpoint answers 400 invalid_client; the gRPC server runs and is never called):
#   grpcio                                  UNAVAILABLE      1 token request
#   grpcio, retry policy with 4 attempts    UNAVAILABLE      4 token requests
#   grpc-js                                 UNKNOWN          1 token request
#   grpc-js, retry policy with 4 attempts   UNKNOWN          1 token request
#   grpc-js, if the error has `code` 16     UNAUTHENTICATED  1 token request
#
# A wrong client secret looks like an outage of the service: alarms and circuit breakers blame a server
# that was never called, and each call costs the token endpoint up to four requests.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install grpcio==1.85.3
npm install --silent --no-fund --no-audit --prefix "$dir" @grpc/grpc-js@1.14.7
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>"$dir/log"
cat >"$dir/client.mjs" <<'JS'
import fs from 'node:fs'
import { Client, credentials, status } from '@grpc/grpc-js'
const [target, cert, tokenUrl, config, code] = process.argv.slice(2)
const token = (_, callback) => fetch(tokenUrl, { method: 'POST' }).then(async (response) => {
  callback(Object.assign(new Error((await response.json()).error), code ? { code: Number(code) } : {}))
}, callback)
const both = credentials.combineChannelCredentials(credentials.createSsl(fs.readFileSync(cert)), credentials.createFromMetadataGenerator(token))
const [client, same] = [new Client(target, both, { 'grpc.service_config': config }), (bytes) => bytes]
client.makeUnaryRequest('/example.Orders/Get', same, same, Buffer.alloc(0), { deadline: Date.now() + 20000 }, (error) => {
  console.log(error ? status[error.code] : 'OK'); client.close()
})
JS
cat >"$dir/run.py" <<'PY'
import http.server, json, subprocess, sys, threading, urllib.error, urllib.request
from concurrent import futures
import grpc
home, requests, calls = sys.argv[1], [], []
class TokenEndpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        requests.append(self.path)
        self.send_response(400); self.end_headers(); self.wfile.write(b'{"error": "invalid_client"}')
    def log_message(self, *_): pass
endpoint = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenEndpoint)
threading.Thread(target=endpoint.serve_forever, daemon=True).start()
token_url = f"http://127.0.0.1:{endpoint.server_port}/oauth2/token"
class Orders(grpc.GenericRpcHandler):
    def service(self, details): return grpc.unary_unary_rpc_method_handler(lambda *_: calls.append(details.method) or b"")
key, cert = (open(f"{home}/{name}.pem", "rb").read() for name in ("key", "cert"))
server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Orders()])
target = f"localhost:{server.add_secure_port('127.0.0.1:0', grpc.ssl_server_credentials([(key, cert)]))}"
server.start()
class Token(grpc.AuthMetadataPlugin):
    def __call__(self, context, callback):
        try: urllib.request.urlopen(token_url, b"", timeout=10)
        except urllib.error.HTTPError as error: callback((), RuntimeError(json.load(error)["error"]))
def python(config, code=None):
    both = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(cert), grpc.metadata_call_credentials(Token()))
    with grpc.secure_channel(target, both, options=[("grpc.service_config", config)]) as channel:
        try: channel.unary_unary("/example.Orders/Get")(b"", timeout=20); return "OK"
        except grpc.RpcError as error: return error.code().name
def node(config, code=""):
    return subprocess.check_output(["node", home + "/client.mjs", target, home + "/cert.pem", token_url, config, code], text=True, timeout=60).strip()
policy = {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "0.1s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}
retry = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
for client, config, code, expected in ((python, "{}", "", ("UNAVAILABLE", 1)), (python, retry, "", ("UNAVAILABLE", 4)),
        (node, "{}", "", ("UNKNOWN", 1)), (node, retry, "", ("UNKNOWN", 1)), (node, "{}", "16", ("UNAUTHENTICATED", 1))):
    requests.clear()
    seen = client(config, code), len(requests)
    print(client.__name__, "| retry policy" if config == retry else "|", "| error code", code or "none", "|", *seen, "token requests")
    assert seen == expected and not calls
PY
"$dir/venv/bin/python" "$dir/run.py" "$dir"
