"""Sends requests through a gateway that calls the example `forward_auth`, and checks the results.

nginx.py and caddy.py start it. Requests and expected results are the same for both gateways.
"""

import base64
import hashlib
import http.client
import http.server
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import threading
import time

from harness import CLIENT_ID as CLIENT
from harness import EXPIRED, FORBIDDEN, INVALID, MALFORMED, MISSING_SCOPE, NO_TOKEN, ROOT
from harness import Checks, Issuer, NotAvailable, bearer, build, debian, free_port, listens, main, start
from harness import send as send_bytes
from harness import stop_processes, temporary_folder

EXAMPLE = ROOT / "examples/forward_auth"
PATIENCE = 70
# The headers in which gateways name the client's request, and other spellings that a service may read
# alike.
CONVENTIONS = [
    spelling
    for name in [
        "X-Original-Method", "X-Original-URI", "X-Original-URL", "X-Forwarded-Method", "X-Forwarded-Uri",
    ]
    for spelling in {name, name.replace("-", "_"), name.replace("-", "_", 1), name.lower()}
]

# What the gateway sets for its own connection to the authorizer.
OF_THE_CONNECTION = {"accept", "accept-encoding", "connection", "content-length", "host", "user-agent"}

# ---- Checks ------------------------------------------------------------------------------------

checks = Checks()
requests = 0
verdicts = {}


def check(what, expected, actual):
    checks.equal(what, expected, actual)


def wait_until(what, holds):
    """Waits for a condition. The script exits if it does not become true."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: it did not within {PATIENCE} s")
        time.sleep(0.02)


# ---- The service behind the gateway ------------------------------------------------------------


class Service(http.server.ThreadingHTTPServer):
    """Answers with the request that it received, and stores it."""

    daemon_threads = True

    def __init__(self):
        # By default, it rejects requests with more than 100 header lines.
        http.client._MAXHEADERS = 1000
        self.got = []
        self.is_down = False
        # Its answer, if it is an authorizer.
        self.status, self.headers = 200, []
        self.has_event = threading.Event()
        super().__init__(("127.0.0.1", 0), Echo)
        self.address = f"127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """A gateway may end a connection at any time."""


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self):
        if self.server.is_down:
            self.close_connection = True
            return
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # Without `Connection: upgrade`, RFC 9110 says to ignore an `Upgrade`.
        is_upgrade = "upgrade" in self.headers.get("Connection", "").lower()
        if is_upgrade and self.headers.get("Sec-WebSocket-Protocol") == "echo":
            return self.echo_frames()
        # `path` differs from the sent path: it merges two slashes at the beginning.
        method, target, _ = self.requestline.split(" ")
        target = target.encode("latin-1").decode()
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        got = {"method": method, "target": target, "headers": headers, "body": body.decode()}
        self.server.got.append(got)
        answer = json.dumps(got).encode()
        if "text/event-stream" in self.headers.get("Accept", ""):
            return self.send_events()
        # The gateway must not change the headers of the service.
        status = int(self.headers.get("X-Answer", self.server.status))
        self.send_response(status)
        for header in self.server.headers:
            self.send_header(*header)
        if status != 204:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if method != "HEAD" and status != 204:
            self.wfile.write(answer)

    def log_message(self, *_):
        pass

    def echo_frames(self):
        """Accepts a WebSocket and sends everything back."""
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        self.server.got.append({"method": "GET", "target": self.path, "headers": headers})
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.send_header("Sec-WebSocket-Protocol", "echo")
        self.end_headers()
        while sent := self.rfile.read1():
            self.wfile.write(sent)
        self.close_connection = True

    def send_events(self):
        """Sends an event, and the next one only when the client has the first one."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in [b"data: 1\n\n", b"data: 2\n\n"]:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.server.has_event.wait(10)
        self.wfile.write(b"0\r\n\r\n")


# ---- Processes ---------------------------------------------------------------------------------

# The script sets it to a temporary folder.
work = None


def start_with_log(*command, **options):
    with open(work / "log", "a", encoding="utf-8") as log:
        return start(*command, stderr=log, text=True, **options)


def log():
    return (work / "log").read_text(encoding="utf-8")


class Authorizer:
    def __init__(self, program, issuer, gateway):
        self.program = program
        self.settings = {
            "FORWARD_AUTH_GATEWAY": gateway,
            "COGNITO_ISSUER": issuer.url,
            "COGNITO_JWKS_URL": issuer.jwks_url,
            "COGNITO_CLIENT_IDS": CLIENT,
            "FORWARD_AUTH": "127.0.0.1:0",
            "NO_PROXY": "*",
        }
        self.start()

    def start(self):
        self.process = start_with_log(self.program, stdout=subprocess.PIPE, env=self.settings)
        said = self.process.stdout.readline()
        if not (found := re.fullmatch(r"AUTHORIZE_URL=http://(127.0.0.1:(\d+))/authorize\n", said)):
            raise RuntimeError(f"the authorizer does not start\n{log()}")
        self.address, self.port = found[1], int(found[2])
        # The next one listens on the same port.
        self.settings["FORWARD_AUTH"] = self.address

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def is_ready(self):
        return send(self.port, "GET", "/readyz").status == 200

    def fails_to_start(self, **settings):
        process = subprocess.run(
            [self.program],
            env=self.settings | settings,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return process.returncode == 1, process.stderr


def replace(text, *pairs):
    """Replaces a text that must occur once in the configuration."""
    for pattern, replacement in pairs:
        text, count = re.subn(pattern, replacement, text, flags=re.DOTALL)
        if count != 1:
            raise RuntimeError(f"the configuration has {pattern!r} {count} times")
    return text


class Kind:
    """A kind of gateway: how it is configured, and what differs from the others."""

    # The value of FORWARD_AUTH_GATEWAY.
    name = "nginx"
    # The headers in which it names the client's request.
    method, uri = "x-original-method", "x-original-uri"
    # What to replace in the configuration, so that it does not call the authorizer.
    without = ("auth_request /_authorize;", "")
    # The statuses if the authorizer has no keys, does not run, and does not answer.
    no_keys, down, hung = 503, 503, 503
    # Seconds after which it notices an authorizer that does not answer.
    notices_within = 4
    # Whether it sends all headers of the client to the authorizer.
    sends_all = False
    # Whether a rejection has these headers of the authorizer.
    has_challenge_with_403, has_cache_control = True, True
    # Whether it forwards the `Upgrade` of a WebSocket. If not, it may forward the header without a
    # `Connection: upgrade`.
    forwards_websockets = True
    # What it sends to the authorizer besides the client's request.
    adds = set()
    # The header lines that a request may have.
    many_headers = 150
    # Whether it accepts a URI in raw UTF-8, and an absolute URI whose host is not the `Host`.
    accepts_utf8, accepts_other_host = True, True
    # Whether authorizer and service get a path without dot segments and repeated slashes.
    cleans_paths = False

    # The column of the table in README.md. Only the newest version has one.
    column = None
    example = EXAMPLE
    # What to replace in the configuration, so that it accepts HTTP/2 without TLS.
    http2 = None

    def __init__(self, program, version):
        self.program = program
        self.version = version

    @property
    def title(self):
        return (self.column or self.name).split(" ")[0]

    def authorizer(self, programs, issuer):
        return Authorizer(programs["forward_auth"], issuer, self.name)

    def wait_until_it_serves(self, port, token):
        """Waits until it calls the authorizer. Most gateways do so at once."""

    def cells_of_failures(self, port, authorizer, service, issuer, good, check_errors):
        """Returns cells of the table. `check_outages` makes the others."""
        return {"authorizer answers 500, 404, or nothing": check_errors(self, service, good)}

    def named(self, uri):
        """Returns the value in which it names a URI."""
        return uri

    def start(self, folder, port, authorizer, service, edits):
        text = (EXAMPLE / "nginx.conf").read_text(encoding="utf-8")
        addresses = [(8080, f"127.0.0.1:{port}"), (9001, authorizer), (9002, service)]
        addresses = [(rf"127\.0\.0\.1:{usual}", address) for usual, address in addresses]
        (folder / "nginx.conf").write_text(replace(text, *addresses, *edits), encoding="utf-8")
        options = ["-p", folder, "-c", "nginx.conf", "-g", "daemon off;"]
        return start_with_log(self.program, "-e", "stderr", *options)


class Caddy(Kind):
    name = "caddy"
    method, uri = "x-forwarded-method", "x-forwarded-uri"
    without = (r"\t\tforward_auth .*?\n\t\t}\n", "")

    @property
    def sends_all(self):
        # Caddy 2.6 fails with `header_up -*`.
        return self.version.startswith("2.6.")

    @property
    def many_headers(self):
        return 40 if self.sends_all else 150

    def start(self, folder, port, authorizer, service, edits):
        text = (EXAMPLE / "Caddyfile").read_text(encoding="utf-8")
        if self.sends_all:
            text = replace(text, (r"\t\t\theader_up -\*\n", ""))
        (folder / "Caddyfile").write_text(replace(text, *edits), encoding="utf-8")
        command = (self.program, "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile")
        settings = {"GATEWAY_PORT": str(port), "AUTHORIZER": authorizer, "SERVICE": service}
        folders = {"HOME": str(folder), "PATH": os.environ["PATH"]}
        return start_with_log(*command, env=settings | folders)


def start_gateway(kind, what, authorizer, service, *edits):
    folder = work / what
    folder.mkdir()
    port = free_port()
    process = kind.start(folder, port, authorizer, service.address, edits)
    if not listens(port, process, PATIENCE):
        raise RuntimeError(f"{kind.name} {kind.version} does not start\n{log()}")
    # Traefik listens before it has routes.
    wait_until(f"{kind.name} has routes", lambda: send(port, "GET", "/health").status != 404)
    return port


# ---- Requests ----------------------------------------------------------------------------------


def send(port, method, target, headers=(), body=b""):
    """Sends one request, byte for byte, on its own connection."""
    global requests
    requests += 1
    answer = send_bytes(port, method, target, headers, body, within=PATIENCE)
    # A gRPC-Web body is not text.
    answer.body = answer.body.decode(errors="replace")
    return answer


class Gateway:
    def __init__(self, kind, port, service):
        self.kind = kind
        self.port = port
        self.service = service

    def send(self, *request):
        """Returns the answer and the requests that reached the service."""
        before = len(self.service.got)
        answer = send(self.port, *request)
        verdicts[answer.status] = verdicts.get(answer.status, 0) + 1
        return answer, self.service.got[before:]

    def rejects(self, what, status, *request):
        """Checks the status, or one of several, and that the service is not called."""
        answer, got = self.send(*request)
        statuses = status if isinstance(status, tuple) else (status,)
        seen = answer.status if answer.status not in statuses else statuses
        check(f"{what}: rejected with {answer.status}", (statuses, []), (seen, got))
        return answer

    def passes(self, what, *request):
        """Checks that the service received the method and the target as sent."""
        answer, got = self.send(*request)
        seen = [(each["method"], each["target"]) for each in got]
        check(what, (200, [request[:2]]), (answer.status, seen))
        return got[0] if got else {"headers": [], "body": None}


def identity(got):
    """Returns the headers that a service could read as the identity of the caller."""
    names = [(re.sub("[_.]", "-", name), value) for name, value in got["headers"]]
    return sorted((name, value) for name, value in names if name.startswith("x-auth") and value)


def conventions(got):
    """Returns the headers that a service could read as the request that was checked."""
    names = {name.lower().replace("_", "-") for name in CONVENTIONS}
    return [pair for pair in got["headers"] if pair[0].replace("_", "-") in names]


# ---- What is checked ---------------------------------------------------------------------------

# None of these is unambiguously a public path.
HOSTILE_TARGETS = [
    "//activity",
    "///activity",
    "/activity/",
    "/%61ctivity",
    "/activit%79",
    "/activity%2f",
    "/activity;x",
    "/activity;/../public/x",
    "/activity/.",
    "/activity/..;/public/x",
    "/./activity",
    "/x/../activity",
    "/Activity",
    "/activity%20",
    "/activity%00",
    "/activity?/../public/x",
    "/activity#/../../public/x",
    "/public/../activity",
    "/public/..%2factivity",
    "/public/..%2Factivity",
    "/public%2f..%2factivity",
    "/public/%2e%2e/activity",
    "/public/.%2e/activity",
    "/public/..;/activity",
    "/public/..;x=y/activity",
    "/public/..\\activity",
    "/public\\..\\activity",
    "/public/x/../../activity",
    "/public//../activity",
    "/public/./../activity",
    "/public//activity",
    "/public/x#/../../activity",
    "/public/%5c..%5cactivity",
    "/public/%zz/../activity",
    "/public",
    "/public/",
    "/\u0061\u0301ctivity",
    "/activity\u00a0",
    "/health/../activity",
    "/health/..%2factivity",
    "/health#/../activity",
    "/health%2f..%2factivity",
    "/health;/../activity",
    "/%68ealth",
    "/health/",
    "/_authorize",
    "/authorize",
    "/@unauthorized",
    "/",
    "*",
    "activity",
    "http://127.0.0.1/activity",
    "http://api.example.com/public/../activity",
    "http://api.example.com//activity",
    "http://api.example.com/public/x#/../../activity",
    "http://api.example.com",
    "http://api.example.com?/public/x",
    "/public/" + "x/" * 33_000 + "?/../../activity",
]


def check_verdicts(gateway, issuer):
    good = issuer.token(scope="activity/* demo-dev/read", sub="alice")
    post = ("POST", "/activity")
    event = b'{"message":"Hello"}'

    got = gateway.passes("a valid token passes, with its event", *post, [bearer(good)], event)
    check("the event arrives", event.decode(), got["body"])
    who = [
        ("x-auth-client-id", CLIENT),
        ("x-auth-scope", "activity/* demo-dev/read"),
        ("x-auth-subject", "alice"),
    ]
    check("the service is told who calls", who, identity(got))
    chunked = [bearer(good), "Transfer-Encoding: chunked"], b"5\r\nHello\r\n0\r\n\r\n"
    got = gateway.passes("a chunked event passes", *post, *chunked)
    check("the chunked event arrives", "Hello", got["body"])
    got = gateway.passes("a public row needs no token", "GET", "/health")
    check("and no caller is named", [], identity(got))
    gateway.passes("a public row takes an invalid token", "GET", "/health", [bearer("garbage")])
    gateway.passes("a query goes along", "GET", "/item/7?a=%2e%2e/&b=c", [bearer(good)])
    gateway.passes("HEAD passes where GET does", "HEAD", "/item", [bearer(good)])
    many = " ".join(f"demo-dev/{n:040}" for n in range(80))
    many = issuer.token(scope=f"demo-dev/read {many}")
    gateway.passes("a token of many scopes passes", "GET", "/item", [bearer(many)])
    for status in [401, 403, 404, 500, 502, 503]:
        answer, got = gateway.send("GET", "/item", [bearer(good), f"X-Answer: {status}"])
        own = status, json.dumps(got[0] if got else None), None
        seen = answer.status, answer.body, answer.headers.get_all("www-authenticate")
        check(f"an own {status} of the service stays as it is", own, seen)

    missing_scope = MISSING_SCOPE.requiring("activity/*")
    for what, rejection, headers in [
        ("no token", NO_TOKEN, []),
        ("another scheme", NO_TOKEN, ["Authorization: Basic dTpw"]),
        ("a garbage token", INVALID, [bearer("garbage")]),
        ("a changed token", INVALID, [bearer(good[:-9] + "AAAAAAAAA")]),
        ("an expired token", EXPIRED, [bearer(issuer.token(scope="activity/*", exp=1_000))]),
        ("Bearer without a token", MALFORMED, ["Authorization: Bearer"]),
        ("a scope too few", missing_scope, [bearer(issuer.token(scope="activity/read"))]),
    ]:
        # Behind a gateway, a malformed header is 401, too.
        status = 403 if rejection is missing_scope else 401
        answer = gateway.rejects(what, status, *post, headers, event)
        if rejection in (NO_TOKEN, INVALID, EXPIRED):
            rejection = rejection.requiring("activity/*")
        kind = gateway.kind
        challenges = [rejection.challenge] if status == 401 or kind.has_challenge_with_403 else None
        check(f"{what}: its challenge", challenges, answer.headers.get_all("www-authenticate"))
        if kind.has_cache_control:
            check(f"{what}: not stored", ["no-store"], answer.headers.get_all("cache-control"))
    answer = gateway.rejects("an unlisted path", 403, "GET", "/unlisted", [bearer(good)])
    challenge = FORBIDDEN.challenge if kind.has_challenge_with_403 else None
    check("an unlisted path: its challenge", challenge, answer.headers["www-authenticate"])
    gateway.rejects("an unlisted path, without a token", 401, "GET", "/unlisted")
    gateway.rejects("HEAD without a token", 401, "HEAD", "/item")
    gateway.rejects("a token too long", (400, 401), *post, [bearer("a" * 20_000)], event)
    # nginx answers this itself.
    gateway.rejects("two tokens", (400, 401), *post, [bearer(good), bearer(good)], event)
    gateway.rejects("two tokens, one bad", (400, 401), *post, [bearer("x"), bearer(good)], event)


def check_methods(gateway, good):
    body = b"POST /public/x HTTP/1.1\r\nHost: a\r\n\r\nGET /public/x HTTP/1.1\r\nHost: a\r\n\r\n"
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get"]:
        # nginx does not accept a lower-case method.
        statuses = (400, 401, 403) if method == "get" else 401
        gateway.rejects(f"{method} with a body", statuses, method, "/activity", [], body)
        if method != "POST":
            statuses = (400, 403) if method == "get" else 403
            what = f"{method} with a valid token where POST is meant"
            gateway.rejects(what, statuses, method, "/activity", [bearer(good)], body)
    for method in ["TRACE", "CONNECT"]:
        gateway.rejects(method, (400, 401, 403, 405, 501), method, "/activity", [bearer(good)])
    gateway.passes("a method of their own on a public row", "PROPFIND", "/public/x", [], b"x")
    for form in ["", "+proto", "+json", "-web", "-web+proto", "-web-text", "-web-text+proto"]:
        content_type = f"Content-Type: application/grpc{form}"
        for method in ["POST", "GET"]:
            what = f"{method} {content_type[14:]}"
            request = (method, "/activity", [content_type, "TE: trailers"], b"\0\0\0\0\0")
            gateway.rejects(what, 401, *request)
            narrow = (method, "/item", [content_type, bearer(good[:-1])], b"\0\0\0\0\0")
            gateway.rejects(f"{what}, an invalid token", 401, *narrow)


def check_paths(gateway, good, narrow):
    """Requests that the table rejects are 403 with a valid token and 401 without one. The gateway
    itself answers invalid requests with 400 or 404, and too long ones with 414 or 431."""
    for target in HOSTILE_TARGETS:
        shown = target if len(target) < 80 else f"{target[:20]}… of {len(target)} bytes"
        rejections = (400, 401, 403, 404, 414, 431)
        for method in ["GET", "POST"]:
            what = f"{method} {shown}"
            if gateway.kind.cleans_paths:
                answer, got = gateway.send(method, target)
                if answer.status == 200:
                    is_public = re.fullmatch(r"/public/[a-z]+(/[a-z]+)*|/health", got[0]["target"])
                    checks.that(is_public, f"{what}: the service gets a public path", got)
                    continue
            gateway.rejects(what, rejections, method, target, [])
            gateway.rejects(f"{what}, a scope too few", rejections, method, target, [narrow])
    token = [bearer(good)]
    gateway.passes("an empty query", "POST", "/activity?", token)
    gateway.passes("a query that looks like a path", "GET", "/public/x?/../../activity")
    for target, escaped in [("/public/x?q=\u00e9", "/public/x?q=%C3%A9"), ("/public/\u00e9", "/public/%C3%A9")]:
        answer, got = gateway.send("GET", target)
        # Gateways in Go escape it.
        seen = [each["target"] for each in got]
        is_same = seen == [] and answer.status == 400
        if gateway.kind.accepts_utf8:
            is_same = seen in ([target], [escaped]) and answer.status == 200
        checks.that(is_same, f"UTF-8 without escapes, {target}: {answer.status}", (answer, seen))
    gateway.passes("escapes that mean nothing", "GET", "/public/a%20b;c=%C3%A9")
    gateway.passes("a path that is encoded twice is forwarded unchanged", "GET", "/public/%252e%252e/activity")
    gateway.passes("what looks like a placeholder", "GET", "/public/$uri$request_uri")
    for target in ["http://127.0.0.1/activity", "http://other.example.com/activity"]:
        answer, got = gateway.send("POST", target, token)
        seen = answer.status, [each["target"] for each in got]
        expected = (200, ["/activity"]) if gateway.kind.accepts_other_host else (400, [])
        check(f"{target} is /activity, or is rejected", expected, seen)


def check_headers(gateway, good):
    """The gateway's headers from a client have no effect."""
    public = ["X-Original-Method: GET", "X-Original-URI: /public/x"]
    for name in CONVENTIONS:
        value = "GET" if "ethod" in name else "/public/x"
        value = f"http://api.example.com{value}" if "URL" in name.upper() else value
        said = [f"{name}: {value}"]
        gateway.rejects(f"{name} from a client", 401, "POST", "/activity", said)
        got = gateway.passes(f"{name} next to a token", "POST", "/activity", [bearer(good), *said])
        check(f"{name}: the service does not get it", [], conventions(got))
        public += said
    gateway.rejects("all of them", 401, "POST", "/activity", public)
    gateway.passes("all of them next to a token", "POST", "/activity", [bearer(good), *public])
    for name in ["X-Rewrite-URL", "X-HTTP-Method-Override", "X-Envoy-Original-Path"]:
        gateway.rejects(name, 401, "POST", "/activity", [f"{name}: /public/x"])
    # The authorizer accepts 100 header lines.
    many = [bearer(good), *(f"X-H{n}: v" for n in range(gateway.kind.many_headers))]
    gateway.passes(f"{len(many)} more header lines", "POST", "/activity", many)

    names = ["X-Auth-Subject", "X-Auth-Client-Id", "X-Auth-Scope", "x-auth-subject"]
    names += [name.replace("-", "_") for name in names] + ["X-Auth_Subject", "X_Auth-Subject"]
    # PHP reads a dot as an underscore.
    names += [name.replace("-", ".") for name in names[:4]] + ["X-Auth.Subject"]
    claims = [f"{name}: admin" for name in names]
    for target in ["/public/x", "/health"]:
        got = gateway.passes(f"no identity from the client's headers, {target}", "GET", target, claims)
        check(f"{target}: none of them arrives", [], identity(got))
    got = gateway.passes("no other identity from the client's headers", "POST", "/activity", [
        bearer(good), *claims,
    ])
    who = [
        ("x-auth-client-id", CLIENT),
        ("x-auth-scope", "activity/* demo-dev/read"),
        ("x-auth-subject", "me"),
    ]
    check("only what the authorizer says arrives", who, identity(got))

    asked = [gateway.kind.method, gateway.kind.uri]
    for name in ["Authorization", *asked, "Content-Length", "Host"]:
        tricks = [f"Connection: close, {name}", *public]
        gateway.rejects(f"Connection: {name}", 401, "POST", "/activity", tricks)
    for name in ["X-Auth-Subject", "X-Auth-Client-Id", *asked]:
        tricks = [bearer(good), f"Connection: close, {name}", "X-Auth-Subject: admin"]
        got = gateway.passes(f"a valid token and Connection: {name}", "POST", "/activity", tricks)
        check(f"Connection: {name} takes nothing away", who, identity(got))
    answer, got = gateway.send("POST", "/activity", [bearer(good), "Connection: Authorization"])
    # If the token does not reach the authorizer, the request is rejected, which only affects its
    # sender.
    called = len(got) if answer.status == 200 else 1 - len(got)
    check("Connection: Authorization with a valid token", 1, called)

    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    upgrade.append("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    gateway.rejects("a WebSocket", 401, "GET", "/item", upgrade)
    gateway.rejects("a WebSocket, unlisted", 403, "GET", "/unlisted", [*upgrade, bearer(good)])
    upgrade = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]
    gateway.rejects("h2c", 401, "GET", "/item", upgrade)
    check_upgrades(gateway, good)
    expect = ["Expect: 100-continue"]
    gateway.rejects("Expect: 100-continue", 401, "POST", "/activity", expect, b"x")
    both = ["Transfer-Encoding: chunked", "Content-Length: 4"]
    smuggled = b"0\r\n\r\nGET /item HTTP/1.1\r\nHost: a\r\n\r\n"
    gateway.rejects("chunked and a length", (400, 401), "POST", "/activity", both, smuggled)


def check_upgrades(gateway, good):
    """After a change of protocol, the gateway checks no further request of the client."""
    for protocols in [["example/1"], ["websocket", "example/1"], ["example/1", "websocket"]]:
        key = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
        lines = ["Connection: Upgrade", *(f"Upgrade: {protocol}" for protocol in protocols), *key]
        joined = ["Connection: upgrade", f"Upgrade: {', '.join(protocols)}", *key]
        for upgrade in [lines, joined]:
            for target, row, token in [
                ("/public/x", "a public row", []),
                ("/item", "a protected row", [bearer(good)]),
            ]:
                answer, got = gateway.send("GET", target, [*upgrade, *token])
                headers = [pair for each in got for pair in each["headers"]]
                seen = [value for name, value in headers if name == "upgrade"]
                if not gateway.kind.forwards_websockets:
                    seen = [value for name, value in headers if name == "connection"]
                    seen = [value for value in seen if "upgrade" in value.lower()]
                what = f"{'; '.join(upgrade[:-2])}: only websocket reaches the service, {row}"
                is_guarded = bool(got) and seen in ([], ["websocket"])
                checks.that(is_guarded, f"{what}: {answer.status}", seen)
        gateway.rejects(f"{lines}, no token", 401, "GET", "/item", lines)


def check_connections(gateway, good):
    """Each request on a connection is checked by itself."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE)
    token = {"Authorization": f"Bearer {good}"}
    before = len(gateway.service.got)
    statuses = []
    for target, headers in [("/item", token), ("/item", {}), ("/health", {}), ("/item", token), ("/item/7", {})]:
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()
    check("each request on a connection needs a token", [200, 401, 200, 200, 401], statuses)
    told = [bool(identity(got)) for got in gateway.service.got[before:]]
    check("a caller is named only with its own request", [True, False, True], told)
    trailer = b"1\r\na\r\n0\r\nX-Auth-Subject: admin\r\n\r\n"
    lines = ["Transfer-Encoding: chunked", "Trailer: X-Auth-Subject", "TE: trailers"]
    got = gateway.passes("a trailer with a caller", "POST", "/public/x", lines, trailer)
    check("a trailer names no caller", [], identity(got))


def check_outages(gateway, authorizer, issuer):
    good = [bearer(issuer.token(scope="activity/*"))]
    post = ("POST", "/activity", good)

    issuer.tell("rotate")
    rotated = [bearer(issuer.token(scope="activity/*"))]
    gateway.passes("after a rotation, a token of the new key passes at once", *post[:2], rotated)

    kind = gateway.kind

    def is_unavailable(what, status, *request):
        answer = gateway.rejects(what, status, *request)
        if status == 503:
            retry_after = answer.headers.get_all("retry-after")
            check(f"{what}: when to come back", ["1"], retry_after)
            check(f"{what}: not stored", ["no-store"], answer.headers.get_all("cache-control"))

    check("SIGTERM ends the authorizer", 0, authorizer.end())
    is_unavailable("without an authorizer", kind.down, *post)
    is_unavailable("without an authorizer, a public row", kind.down, "GET", "/health")
    issuer.tell("fault down")
    authorizer.start()
    is_unavailable("without keys", kind.no_keys, *post)
    gateway.passes("without keys, a public row passes", "GET", "/health")
    check("without keys, it is not ready", 503, send(authorizer.port, "GET", "/readyz").status)
    issuer.tell("fault none")
    wait_until("the keys are fetched again", lambda: gateway.send(*post)[0].status == 200)
    gateway.passes("with keys again, a valid token passes", *post)

    authorizer.process.send_signal(signal.SIGSTOP)
    os.waitpid(authorizer.process.pid, os.WUNTRACED)  # until the whole process is stopped
    begin = time.monotonic()
    is_unavailable("an authorizer that does not answer", kind.hung, *post)
    took = time.monotonic() - begin
    checks.figure(f"{kind.name} {kind.version} notices a hung authorizer after", f"{took:.1f} s")
    check("it is noticed in time", True, took < kind.notices_within)
    authorizer.process.send_signal(signal.SIGCONT)
    gateway.passes("when it is back, a valid token passes", *post)

    gateway.service.is_down = True
    answer, _ = gateway.send(*post)
    seen = answer.status, answer.headers["retry-after"]
    check("without the service it is 502, not the authorizer's 503", (502, None), seen)


def check_authorizer(kind, authorizer, good):
    """Requests that a correctly configured gateway does not send."""
    method, uri = f"{kind.method}: GET", f"{kind.uri}: {kind.named('/public/x')}"

    def answers(what, status, *headers, method="GET", target="/authorize"):
        answer = send(authorizer.port, method, target, headers)
        check(f"asked directly, {what}: {status}", status, answer.status)
        return answer

    answers("both headers", 204, method, uri)
    before = len(log())
    for _ in range(2):
        answers("without the method", 500, uri)
        answers("without the URI", 500, method)
        answers("with two methods", 500, method, method, uri)
        answers("with two URIs", 500, method, uri, uri)
    said = re.findall(r"ERROR .*?: (x-\S+ is [\w ]+): .*", log()[before:])
    names = kind.method, kind.uri
    problems = [f"{each} is {problem}" for problem in ["missing", "repeated"] for each in names]
    check("each cause is logged once", problems, said)
    before = len(log())
    for header in ["X-Original-Method", "X-Forwarded-Method"]:
        if header.lower() != kind.method:
            answers(f"{header} with the same method", 204, method, uri, f"{header}: GET")
            answers(f"{header} with another method", 500, method, uri, f"{header}: POST")
    for header in ["X-Original-URI", "X-Original-URL", "X-Forwarded-Uri"]:
        if header.lower() != kind.uri:
            start = "http://api.example.com" if header == "X-Original-URL" else ""
            answers(f"{header} with the same URI", 204, method, uri, f"{header}: {start}/public/x")
            answers(f"{header} with another URI", 500, method, uri, f"{header}: {start}/item")
    said = re.findall(r"ERROR .*?: (\S+) names another request: .* gateway must set", log()[before:])
    others = {each.lower() for each in CONVENTIONS if "_" not in each} - set(names)
    check("each contradiction is logged", sorted(others), sorted(said))
    for bad in ["", "public/x", "http://a/public/x", "/public/x#", "*"]:
        answers(f"with the URI {bad!r}", 403, method, f"{kind.uri}: {kind.named(bad)}", bearer(good))
    answers("with a URI that is not ASCII", 204, method, f"{uri}\u00e9")
    long = kind.named("/public/" + "x/" * 33_000 + "?/../../activity")
    answers("with a URI too long", 403, method, f"{kind.uri}: {long}")
    answers("with no method", 403, f"{kind.method}:", uri)
    answers("with half a method", 403, f"{method} /", uri)
    answers("another path", 404, method, uri, target="/public/x")
    answers("its method does not count", 401, uri.replace("public/x", "item"), method, method="PUT")
    answers("alive", 200, target="/livez")
    answers("ready", 200, target="/readyz")

    for settings, named in [
        ({"COGNITO_CLIENT_IDS": ""}, "COGNITO_CLIENT_IDS"),
        ({"COGNITO_REQUIRED_SCOPES": "a/b"}, "COGNITO_REQUIRED_SCOPES"),
        ({"FORWARD_AUTH_GATEWAY": ""}, "FORWARD_AUTH_GATEWAY"),
        ({"FORWARD_AUTH_GATEWAY": "nginx,caddy"}, "FORWARD_AUTH_GATEWAY"),
        ({}, "FORWARD_AUTH"),
    ]:
        ended, said = authorizer.fails_to_start(**settings)
        check(f"a wrong {named} is named at the start", (True, True), (ended, named in said))


def check_asks(kind, service):
    """Checks the requests of a gateway with an authorizer that allows everything."""
    authorizer = Service()
    identity = ["x-auth-subject", "x-auth-client-id", "x-auth-scope"]
    authorizer.status, authorizer.headers = 204, [(name, "") for name in identity]
    port = start_gateway(kind, "asks", authorizer.address, service)
    authorizer.got.clear()
    said = [f"{each}: GET" for each in CONVENTIONS]
    said += [f"Connection: {kind.uri}", "Cookie: a=b", "X-Api-Key: c", "X-Auth-Subject: admin"]
    said += ["Content-Type: application/grpc", "Authorization: Basic dTpw"]
    body = b"GET /authorize HTTP/1.1\r\nX-Original-URI: /public/x\r\n\r\n"
    for method, target, body in [
        ("POST", "/activity?a=%2f", body),
        ("GET", "//a/b/%2e%2e/c;d=e?f", b""),
    ]:
        answer = send(port, method, target, said, body)
        check(f"{method} {target}: a yes is enough", (200, 1), (answer.status, len(authorizer.got)))
        if not authorizer.got:
            continue
        asked = authorizer.got.pop()
        # Caddy keeps the client's query.
        seen = asked["method"], asked["target"].partition("?")[0], asked["body"]
        check(f"{method} {target}: asked by GET, without the body", ("GET", "/authorize", ""), seen)
        reached = service.got[-1]["target"]
        is_same = reached == target or kind.cleans_paths
        checks.that(is_same, f"{method} {target}: the service gets this URI", reached)
        named = {kind.method: method, kind.uri: kind.named(reached)}
        expected = named | {"authorization": "Basic dTpw", "content-type": "application/grpc"}
        told = [pair for pair in asked["headers"] if pair[0] not in OF_THE_CONNECTION | kind.adds]
        told = sorted(tuple(pair) for pair in told)
        if kind.sends_all:
            names = {name.lower().replace("_", "-") for name in CONVENTIONS}
            told = [pair for pair in told if pair[0].replace("_", "-") in names or pair in expected.items()]
        what = f"{method} {target}: only what the decision needs is sent"
        check(what, sorted(expected.items()), told)
        lengths = [value for name, value in asked["headers"] if name == "content-length"]
        check(f"{method} {target}: no length of a body", True, lengths in ([], ["0"]))


# ---- The table in the README -------------------------------------------------------------------


def check_protocols(gateway, authorizer, issuer):
    """Checks what a service without a gateway can do, and returns the cells of the table."""
    kind, port = gateway.kind, gateway.port
    good = issuer.token(scope="activity/* demo-dev/read", sub="me")
    cells = {}

    answer, got = gateway.send("GET", "/item/\u00e9?q=\u00e9", [bearer(good)])
    arrived = {"/item/\u00e9?q=\u00e9": "unchanged", "/item/%C3%A9?q=\u00e9": "path escaped"}
    actual = arrived.get(got[0]["target"], "changed") if got else str(answer.status)
    cells["UTF-8 in the URI"] = actual

    def longest(*options):
        """Returns the results for a token of 8, 12 and 15.5 KB."""
        seen = []
        for size in (8_000, 12_000, 15_500):
            padding = size - len(issuer.token(scope="demo-dev/read"))
            token = issuer.token(scope="demo-dev/read", more="x" * (padding * 3 // 4))
            command = [curl, "--silent", "--noproxy", "*", "--max-time", "20", "--output", "/dev/null"]
            command += ["--write-out", "%{http_code}", "--header", "@-", *options]
            url = f"http://127.0.0.1:{port}/item"
            line = f"Authorization: Bearer {token}\n"
            done = subprocess.run([*command, url], input=line, capture_output=True, text=True)
            # curl prints 000 if the connection ends without a status.
            seen.append(done.stdout if done.stdout != "000" else "closed")
        return ", ".join(seen)

    curl = debian("curl")
    cells["token of 8, 12, 15.5 KB, HTTP/1.1"] = longest()
    if kind.http2 is not None:
        cells["token of 8, 12, 15.5 KB, HTTP/2"] = longest("--http2-prior-knowledge")
    answer, got = gateway.send("POST", "/activity", [bearer(good)], b"x" * 5_000_000)
    cells["body of 5 MB"] = str(answer.status)
    answer, _ = gateway.send("POST", "/activity", [], b"x" * 500_000)
    cells["body of 500 KB, no token"] = str(answer.status)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
        head = "POST /activity HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n"
        stream.sendall(f"{head}{bearer(good)}\r\n\r\n".encode())
        seen = stream.recv(65536).split(b"\r\n")[0].split()[1].decode()
        stream.sendall(b"abc")
        while b" 200 OK" not in (more := stream.recv(65536)):
            if not more:
                break
        seen += ", 200" if b" 200 OK" in more else ", closed"
    cells["`Expect: 100-continue`"] = seen
    for topic, headers in [
        ("two `Authorization` headers", [bearer(good), bearer(good)]),
        ("two tokens joined by a comma", [f"{bearer(good)}, Bearer {good}"]),
    ]:
        answer, got = gateway.send("GET", "/item", headers)
        check(f"{topic}: rejected", [], got)
        cells[topic] = str(answer.status)
    cells["preflight (`OPTIONS`) without CORS settings"] = str(gateway.send("OPTIONS", "/item")[0].status)

    def handshake(token, subprotocol="echo"):
        """Returns the status and, if it is 101, what comes back."""
        lines = ["GET /item HTTP/1.1", "Host: api.example.com", "Connection: Upgrade", "Upgrade: websocket"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
        lines += [f"Sec-WebSocket-Protocol: {subprotocol}", "X-Auth-Subject: admin", *token, "", ""]
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
            stream.sendall("\r\n".join(lines).encode())
            status = stream.recv(65536).split()[1].decode()
            if status == "101":
                stream.sendall(b"\x81\x82abcd\0\0")
                status += " " + ("with echo" if stream.recv(100) == b"\x81\x82abcd\0\0" else "without")
            return status

    before = len(gateway.service.got)
    check("WebSocket without a token", ("401", before), (handshake([]), len(gateway.service.got)))
    seen = handshake([bearer(good)])
    cells["WebSocket with a token"] = seen
    told = identity(gateway.service.got[-1])
    check("WebSocket: the service is told who calls", ("x-auth-subject", "me"), told[-1])

    gateway.service.has_event.clear()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
        lines = ["GET /item HTTP/1.1", "Host: a", "Accept: text/event-stream", bearer(good), "", ""]
        stream.sendall("\r\n".join(lines).encode())
        seen = b""
        while b"data: 1" not in seen and (more := stream.recv(65536)):
            seen += more
        is_early = b"data: 1" in seen and b"data: 2" not in seen
        gateway.service.has_event.set()
    cells["server-sent events"] = "at once" if is_early else "late"

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    statuses = []
    for _ in range(3):
        authorizer.end()
        authorizer.start()
        wait_until("it has keys", authorizer.is_ready)
        for _ in range(20):
            connection.request("GET", "/item", headers={"Authorization": f"Bearer {good}"})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    connection.close()
    failed = [status for status in statuses if status != 200]
    cells["60 requests on one connection, three restarts"] = f"{len(failed)} fail"
    cells["authorizer without keys, stopped, hung"] = f"{kind.no_keys}, {kind.down}, {kind.hung}"
    return cells


def check_table(kind, cells):
    """Compares the column of the README with the results. WRITE_TABLE=1 replaces the column."""
    readme = kind.example / "README.md"
    text = readme.read_text(encoding="utf-8")
    column = kind.column
    lines = text.split("\n")
    start = next(at for at, line in enumerate(lines) if line.startswith("| request |"))
    columns = [name.strip() for name in lines[start].strip("| ").split("|")]
    rows = {}
    at = start + 2
    while at < len(lines) and lines[at].startswith("|"):
        parts = [part.strip() for part in lines[at].strip().strip("|").split("|")]
        rows[parts[0]] = parts
        at += 1
    if os.environ.get("WRITE_TABLE"):
        for topic, value in cells.items():
            row = rows.setdefault(topic, [topic] + ["" for _ in columns[1:]])
            row[columns.index(column)] = value
        made = ["| " + " | ".join(row) + " |" for row in rows.values()]
        lines[start + 2:at] = made
        readme.write_text("\n".join(lines), encoding="utf-8")
    shown = {topic: row[columns.index(column)] for topic, row in rows.items()}
    shown = {topic: value for topic, value in shown.items() if topic in cells}
    check(f"the column {column} of README.md", cells, shown)


def measure(port, headers, count=200):
    """Returns the median time of sequential requests on one connection, in milliseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    took = []
    for _ in range(count):
        begin = time.perf_counter()
        connection.request("GET", "/item", headers=headers)
        response = connection.getresponse()
        response.read()
        took.append(time.perf_counter() - begin)
        if response.status != 200:
            raise RuntimeError(f"a request that is measured: {response.status}")
    connection.close()
    return statistics.median(took) * 1000


def check_gateway(kind):
    programs = build("issuer", "forward_auth")
    service = Service()
    issuer = Issuer(programs["issuer"])
    authorizer = kind.authorizer(programs, issuer)
    port = start_gateway(kind, "with", authorizer.address, service, *(kind.http2 or []))
    gateway = Gateway(kind, port, service)

    good = issuer.token(scope="activity/* demo-dev/read", sub="me")
    narrow = bearer(issuer.token(scope="unknown/scope"))
    wait_until("the authorizer has keys", authorizer.is_ready)
    check_asks(kind, service)
    check_verdicts(gateway, issuer)
    check_methods(gateway, good)
    check_paths(gateway, good, narrow)
    check_headers(gateway, good)
    check_authorizer(kind, authorizer, good)
    check_connections(gateway, good)
    cells = check_protocols(gateway, authorizer, issuer)
    if kind.column:
        check_table(kind, cells)
    bare = start_gateway(kind, "without", authorizer.address, service, kind.without)
    token = {"Authorization": f"Bearer {issuer.token(scope='demo-dev/read')}"}
    rounds = [(measure(bare, {}), measure(port, token)) for _ in range(3)]
    check_outages(gateway, authorizer, issuer)

    name = f"{kind.name} {kind.version}"
    for title, medians in zip(("without", "with"), zip(*rounds)):
        best = min(medians)
        figure = f"{best:.2f} ms a request, {1000 / best:.0f} a second"
        checks.figure(f"{name} {title} authorization", figure)
    counts = ", ".join(f"{status} {count} times" for status, count in sorted(verdicts.items()))
    checks.figure("requests", requests)
    checks.figure(f"through {name}", counts)


def run(*kinds):
    """Checks these gateways, and exits. Each of them is a function, which installs it."""

    main(lambda _: check_each(kinds, check_gateway), checks)


def check_each(kinds, check_kind):
    """Checks each gateway that can be installed, each in a new folder. Stops its processes."""
    global work
    for find in kinds:
        try:
            kind = find()
        except NotAvailable as error:
            checks.not_checked("a gateway", error)
            continue
        print(f"# {kind.title} {kind.version}", flush=True)
        verdicts.clear()
        with temporary_folder() as work:
            try:
                check_kind(kind)
            finally:
                stop_processes()


def version(program, *arguments):
    """Returns the version that a program prints."""
    said = subprocess.run([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return re.search(r"\d+\.\d+\.\d+", said.stdout)[0]
