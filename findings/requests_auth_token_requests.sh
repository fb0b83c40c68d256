#!/usr/bin/env bash
# Packages: httpx-auth 0.23.1 with httpx 0.28.1, and requests-auth 8.0.0 with requests 2.34.2 (all
# PyPI), their class OAuth2ClientCredentials.
#
# Both have one token cache per process, and a lock around the token request.
# 1. A thread that has waited for the lock does not check the cache again. If 10 threads need a
#    token at the same time, they request 10 tokens, and the last thread waits for all ten.
# 2. `early_expiry=0` is treated as if it were not set, so the default of 30 seconds applies. Both
#    READMEs say that 0 uses a token until it expires. A token of 30 s is never used twice.
# 3. With httpx.AsyncClient, the token request blocks the event loop, for up to `timeout` (60 s).
#
# Expected: one token request in 1 and 2; other tasks continue in 3.
# Seen, the same for both packages (the token endpoint answers after 0.5 s in 1, and after 1 s in 3):
#   1. 10 threads, one call each, no token yet           10 token requests, one after the other
#   2. 5 calls, expires_in 20, early_expiry=0            5 token requests
#      5 calls, expires_in 20, early_expiry=0.001        1 token request
#   3. a task that ticks every 50 ms (only httpx-auth)   pauses for 1 s
#
# Whenever a token expires, a worker with 50 threads requests 50 tokens. Tokens can be billed, and
# token endpoints have rate limits. Write `early_expiry=0.001` for 0.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install httpx-auth==0.23.1 httpx==0.28.1 requests-auth==8.0.0 requests==2.34.2
cat >"$dir/run.py" <<'PY'
import asyncio, concurrent.futures, http.server, json, threading, time
import httpx, httpx_auth, requests, requests_auth

class Servers(http.server.BaseHTTPRequestHandler):
    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200); self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data))); self.end_headers(); self.wfile.write(data)
    def do_POST(self):  # the token endpoint
        self.rfile.read(int(self.headers["content-length"]))
        begin = time.monotonic(); time.sleep(delay); fetches.append((begin, time.monotonic()))
        self.reply({"access_token": f"example-{len(fetches)}", "token_type": "Bearer", "expires_in": lifetime})
    def do_GET(self): self.reply("the API")
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Servers)
threading.Thread(target=server.serve_forever, daemon=True).start()
home = f"http://127.0.0.1:{server.server_port}"

def start(package, seconds, expires_in, **more):
    global fetches, delay, lifetime
    fetches, delay, lifetime = [], seconds, expires_in
    package.OAuth2.token_cache.clear()
    return package.OAuth2ClientCredentials(home + "/oauth2/token", client_id="1example23456789", client_secret="notarealsecret0123456789",
                                           scope="shop/read", **more)

for package, session in (httpx_auth, httpx.Client()), (requests_auth, requests.Session()):
    call = lambda auth: session.get(home + "/orders", auth=auth, timeout=60).raise_for_status()
    auth = start(package, 0.5, 3600)
    with concurrent.futures.ThreadPoolExecutor(10) as threads: list(threads.map(call, [auth] * 10))
    in_series = all(before[1] <= after[0] for before, after in zip(fetches, fetches[1:]))
    print(package.__name__, "| 10 threads | token requests", len(fetches), "| one after the other", in_series)
    assert len(fetches) == 10 and in_series
    for early, count in (0, 5), (0.001, 1):
        auth = start(package, 0, 20, early_expiry=early)
        for _ in range(5): call(auth)
        print(package.__name__, "| 5 calls | early_expiry", early, "| token requests", len(fetches))
        assert len(fetches) == count

async def longest_pause(auth):
    async def ticks():
        last = time.monotonic()
        while True: await asyncio.sleep(0.05); pauses.append(time.monotonic() - last); last += pauses[-1]
    pauses, task = [], asyncio.create_task(ticks())
    await asyncio.sleep(0.2)
    async with httpx.AsyncClient() as client: await client.get(home + "/orders", auth=auth)
    await asyncio.sleep(0.2); task.cancel()
    return max(pauses)
pause = asyncio.run(longest_pause(start(httpx_auth, 1, 3600)))
print("httpx_auth | AsyncClient | token requests", len(fetches), f"| longest pause of another task {pause:.1f} s")
assert pause > 0.9 and len(fetches) == 1
PY
"$dir/venv/bin/python" "$dir/run.py"
