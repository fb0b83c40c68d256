#!/usr/bin/env python3
"""Compares each gateway with a service that the crate protects itself: the same HTTP requests, gRPC calls
and gRPC-Web calls are sent to both. It also checks the snippets for browsers (CORS) and gRPC in the READMEs of
examples/forward_auth and examples/ext_authz, HTTP/3, and an authorizer that answers with errors.

The services without a gateway are examples/quickstart and examples/tonic. Each gateway is pinned; nginx.py,
caddy.py and so on check it thoroughly. Differences are cells of the table in the README (WRITE_TABLE=1).
"""
# ci: all waits: the lines with FAIL say what was expected and what came; or pip has to reach PyPI
import json
import re
import subprocess
import sys

import caddy
import envoy_gateway
import forward_auth
import haproxy
import ingress_nginx
import nginx
import traefik
from forward_auth import Echo, Gateway, Service, check_each, check_protocols, check_table, checks, send, start_gateway
from forward_auth import wait_until
from harness import CLIENT_ID, ROOT, Issuer, NotAvailable, bearer, build, debian, environment, main, pypi
from harness import Service as Quickstart
from harness import start

GATEWAYS = [
    nginx.of_pypi,
    caddy.of_pypi,
    traefik.of_pypi,
    haproxy.of_pypi,
    ingress_nginx.of_pypi,
    envoy_gateway.of_pypi,
    envoy_gateway.over_http,
]
CLIENTS = ROOT / "tests/run/gateway_clients"
ORIGIN = "https://app.example.com"
FEED = "/activity.v1.Feed"
HEALTH = "/grpc.health.v1.Health"
CODES = {"0": "OK", "7": "PERMISSION_DENIED", "13": "INTERNAL", "14": "UNAVAILABLE", "16": "UNAUTHENTICATED"}
# How a gRPC client reads an HTTP status without `grpc-status`.
CODES_OF_STATUSES = {400: "INTERNAL", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 503: "UNAVAILABLE"}

# ---- Snippets of the READMEs -------------------------------------------------------------------


def snippet(kind, section, label):
    """Returns the code after a bold label in a section of the gateway's README."""
    text = (kind.example / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {section}\n(?:(?!^## ).)*?^\*\*{label}\*\*.*?```\w*\n(.*?)```", text, re.M | re.S)
    if not found:
        raise RuntimeError(f"the README has no snippet {label!r} in {section!r}")
    return found[1]


def indented(text, spaces):
    return re.sub(r"^(?=.)", " " * spaces, text, flags=re.M)


def edits_for_browsers(kind):
    code = snippet(kind, "Browsers", kind.title)
    if kind.name == "nginx":
        return [(r"\n        error_page 401", lambda _: f"\n{indented(code, 8)}        error_page 401")]
    if kind.name == "caddy":
        line = "\t\t# It sets X-Forwarded-Method"
        return [(line, lambda _: re.sub(r"^(?=.)", "\t\t", code, flags=re.M) + line)]
    if kind.name == "traefik":
        return [
            (r"\n  middlewares:\n", lambda _: f"\n  middlewares:\n{indented(code, 4)}"),
            (r"\[remove-headers, no-upgrade", "[cors, remove-headers, no-upgrade"),
            (r"\[remove-headers, only-websocket", "[cors, remove-headers, only-websocket"),
        ]
    if kind.name == "haproxy":
        return [(r"    http-request lua", lambda _: f"{indented(code, 4)}    http-request lua")]
    if kind.name == "ingress-nginx":
        return ingress_nginx.cors(code)
    return envoy_gateway.cors(code)


def edits_for_grpc(kind, address):
    edits = list(kind.http2 or [])
    if kind.name == "nginx":
        code = snippet(kind, "gRPC", kind.title).replace("127.0.0.1:9002", address)
        edits.append((r"\n        location / \{", lambda _: f"\n{indented(code, 8)}\n        location / {{"))
    elif kind.name == "traefik":
        edits.append((r"- url: http:", "- url: h2c:"))
    elif kind.name == "haproxy":
        edits.append((r"(server service \S+)", r"\1 proto h2"))
    elif kind.name == "ingress-nginx":
        # What ingress-nginx makes of `backend-protocol: GRPC`.
        in_grpc = lambda found: found[0].replace("proxy_set_header", "grpc_set_header").replace(
            "proxy_pass http:", "grpc_pass grpc:"
        )
        edits += [(r"location / \{.*", in_grpc), (r"(location / \{.*)proxy_http_version 1.1;", r"\1")]
    elif kind.name == "envoy":
        edits += envoy_gateway.grpc(snippet(kind, "gRPC", kind.title))
    return edits


# ---- Clients -----------------------------------------------------------------------------------


class Lines:
    """A program that answers each line of JSON with one."""

    def __init__(self, *command):
        self.process = start(
            *command, env=environment(GRPC_VERBOSITY="NONE"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, **request):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def over_http2(port, method, target, headers):
    """Sends a request with curl, and returns its status and challenge."""
    command = [debian("curl"), "--silent", "--noproxy", "*", "--max-time", "20", "--http2-prior-knowledge"]
    command += ["--output", "/dev/null", "--dump-header", "-", "--path-as-is"]
    command += ["--head"] if method == "HEAD" else ["--request", method]
    for header in headers:
        command += ["--header", header]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{target}"], capture_output=True, text=True)
    status = re.match(r"HTTP/2 (\d+)", done.stdout)
    challenge = re.search(r"^www-authenticate: (.*?)\r?$", done.stdout, re.M | re.I)
    return int(status[1]) if status else "closed", challenge and challenge[1]


def grpc_web_code(answer):
    """Returns the code as a gRPC-Web client reads it."""
    if status := answer.headers["grpc-status"]:
        return CODES[status]
    if answer.status != 200:
        return CODES_OF_STATUSES.get(answer.status, f"HTTP {answer.status}")
    found = re.search(r"grpc-status: ?(\d+)", answer.body)
    return CODES[found[1]] if found else "no status"


class WebService(Service):
    """Also answers gRPC-Web calls."""

    def __init__(self):
        super().__init__()
        self.RequestHandlerClass = WebEcho


class WebEcho(Echo):
    def answer(self):
        if not self.headers.get("Content-Type", "").startswith("application/grpc-web"):
            return super().answer()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        self.server.got.append({"method": self.command, "target": self.path, "headers": headers})
        trailers = b"grpc-status: 0\r\n"
        body = b"\0\0\0\0\0" + b"\x80" + len(trailers).to_bytes(4, "big") + trailers
        self.send_response(200)
        self.send_header("Content-Type", "application/grpc-web+proto")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


# ---- Cases -------------------------------------------------------------------------------------


def tokens(issuer):
    """Returns header lines by what they are."""
    good = issuer.token(scope="activity/* demo-dev/read health/check", sub="me")
    return {
        "no token": [],
        "another scheme": ["Authorization: Basic dTpw"],
        "scheme in lower case": [f"Authorization: bearer {good}"],
        "malformed header": ["Authorization: Bearer"],
        "invalid token": [bearer(good[:-9] + "AAAAAAAAA")],
        "expired token": [bearer(issuer.token(scope="activity/* demo-dev/read health/check", exp=1_000))],
        "scope missing": [bearer(issuer.token(scope="other/read"))],
        "two tokens": [bearer(good), bearer(good)],
        "valid token": [bearer(good)],
    }


def differences(expected, actual):
    """Returns a cell: `same`, or what differs."""
    found = {}
    for case, one in expected.items():
        if actual[case] != one:
            found.setdefault(f"{actual[case]} instead of {one}", []).append(case)
    return "; ".join(f"{' and '.join(cases)}: {what}" for what, cases in found.items()) or "same"


HTTP = [("GET", "/item"), ("HEAD", "/item"), ("POST", "/activity"), ("OPTIONS", "/item")]


def compare_http(kind, port, service, quickstart, issuer, ask, requests=HTTP):
    """Compares statuses with those of the quickstart."""
    expected, actual = {}, {}
    quickstart_port = int(quickstart.address.split(":")[1])
    for what, lines in tokens(issuer).items():
        for method, target in requests:
            if method == "OPTIONS" and what in ("valid token", "scheme in lower case", "scope missing"):
                # Only the table has no row for it: the quickstart answers 405.
                continue
            direct = send(quickstart_port, method, target, lines)
            before = len(service.got)
            status, challenge = ask(port, method, target, lines)
            reached = len(service.got) - before
            is_allowed = direct.status == 200
            name = f"{kind.title}, {method} {target}, {what}"
            checks.equal(f"{name}: reaches the service as without a gateway", int(is_allowed), reached)
            if not is_allowed and status == 401:
                checks.that(challenge and challenge.startswith("Bearer realm="), f"{name}: challenge", challenge)
            first = expected.setdefault(what, direct.status)
            checks.equal(f"{name}: one status without a gateway", first, direct.status)
            actual[what] = status if actual.get(what, status) == status else f"{actual[what]} or {status}"
    return differences(expected, actual)


def compare_grpc(kind, address, peer, call, issuer, tonic):
    expected, actual = {}, {}
    for what, lines in tokens(issuer).items():
        metadata = [["authorization", line.split(": ", 1)[1]] for line in lines]
        expected[what] = call(address=tonic, method=f"{HEALTH}/Check", metadata=metadata)["code"]
        before = int(call(address=peer, method="/test/Count", metadata=[])["answer"])
        forged = [*metadata, ["x-auth-subject", "root"]]
        answer = call(address=address, method=f"{FEED}/Post", metadata=forged)
        actual[what] = answer["code"]
        reached = int(call(address=peer, method="/test/Count", metadata=[])["answer"]) - before
        is_allowed = expected[what] == "OK"
        name = f"{kind.title}, gRPC, {what}"
        checks.equal(f"{name}: reaches the service as without a gateway", int(is_allowed), reached)
        if is_allowed and answer["code"] == "OK":
            told = [pair[1] for pair in json.loads(answer["answer"]) if pair[0] == "x-auth-subject"]
            checks.equal(f"{name}: the service is told who calls", ["me"], told)
    return differences(expected, actual)


def compare_grpc_web(kind, port, service, issuer, tonic):
    expected, actual = {}, {}
    content_type = ["Content-Type: application/grpc-web+proto", "X-Grpc-Web: 1"]
    for what, lines in tokens(issuer).items():
        # An empty message.
        request = [*lines, *content_type], b"\0\0\0\0\0"
        direct = send(int(tonic.split(":")[1]), "POST", f"{HEALTH}/Check", *request)
        expected[what] = grpc_web_code(direct)
        before = len(service.got)
        actual[what] = grpc_web_code(send(port, "POST", f"{FEED}/Post", *request))
        name = f"{kind.title}, gRPC-Web, {what}"
        reached = len(service.got) - before
        checks.equal(f"{name}: reaches the service as without a gateway", int(expected[what] == "OK"), reached)
    return differences(expected, actual)


def check_browsers(kind, port, service, good):
    """Returns the statuses of a preflight and of a 401, if a browser may read them."""
    origin = f"Origin: {ORIGIN}"

    def is_readable(answer):
        allowed = answer.headers.get_all("access-control-allow-origin")
        return allowed == [ORIGIN]

    before = len(service.got)
    asks = [origin, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization"]
    preflight = send(port, "OPTIONS", "/item", asks)
    headers = (preflight.headers["access-control-allow-headers"] or "").lower()
    is_allowed = preflight.status in (200, 204) and is_readable(preflight) and "authorization" in headers
    name = f"{kind.title}, browser"
    checks.that(is_allowed, f"{name}: a preflight is answered", (preflight, preflight.headers.items()))
    rejected = send(port, "GET", "/item", [origin])
    exposed = (rejected.headers["access-control-expose-headers"] or "").lower()
    is_visible = rejected.status == 401 and is_readable(rejected) and "www-authenticate" in exposed
    is_visible = is_visible and rejected.headers["www-authenticate"].startswith("Bearer")
    checks.that(is_visible, f"{name}: a 401 and its challenge can be read", rejected.headers.items())
    forbidden = send(port, "POST", "/item", [origin, bearer(good)])
    checks.that(
        forbidden.status == 403 and is_readable(forbidden), f"{name}: a 403 can be read", forbidden.headers.items()
    )
    # Without `Origin`, and with the method of a preflight but none of its headers.
    plain = send(port, "OPTIONS", "/item", [])
    checks.equal(f"{name}: none of them reaches the service", before, len(service.got))
    checks.that(plain.status in (200, 204, 401), f"{name}: OPTIONS without Origin", plain)
    served = send(port, "GET", "/item", [origin, bearer(good)])
    is_served = served.status == 200 and is_readable(served)
    checks.that(is_served, f"{name}: the answer of the service can be read", served.headers.items())
    return f"{preflight.status}, {rejected.status}"


def check_errors(kind, service, good):
    """Checks a gateway whose authorizer answers with errors, and returns the statuses."""
    authorizer = WebService()
    port = start_gateway(kind, "errors", authorizer.address, service)
    statuses = []
    for status in (500, 404, None):
        authorizer.status, authorizer.is_down = status or 200, status is None
        before = len(service.got)
        answer = send(port, "GET", "/item", [bearer(good)])
        what = f"answers {status}" if status else "closes the connection"
        checks.equal(f"{kind.title}: an authorizer that {what}: not served", before, len(service.got))
        statuses.append(str(answer.status))
    # Only another server than the authorizer answers 404.
    is_clear = {statuses[0], statuses[2]} <= {"403", "500", "503"}
    checks.that(is_clear, f"{kind.title}: only 403, 500 or 503", statuses)
    return ", ".join(statuses)


# ---- The script --------------------------------------------------------------------------------


class Direct:
    """The services without a gateway."""

    def __init__(self, programs, issuer, folder):
        self.quickstart = Quickstart(programs["quickstart"], issuer, folder, "quickstart")
        said = folder / "tonic.out"
        with open(said, "wb") as out, open(folder / "tonic.err", "wb") as err:
            start(
                programs["tonic"],
                "serve",
                env=environment(COGNITO_ISSUER=issuer.url, COGNITO_CLIENT_IDS=CLIENT_ID),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        wait_until("tonic serves", lambda: "ready" in said.read_text())
        wait_until("the quickstart serves", self.quickstart.is_ready)
        self.tonic = re.search(r"^LAYER=(.*)$", said.read_text(), re.M)[1]


class Address:
    """What `start_gateway` needs of a service."""

    def __init__(self, address):
        self.address = address


def check_gateway(kind, programs, grpc_python, http3_python):
    cells = {}
    issuer = Issuer(programs["issuer"])
    work = forward_auth.work
    direct = Direct(programs, issuer, work)
    service = WebService()
    authorizer = kind.authorizer(programs, issuer)
    wait_until("the authorizer has keys", authorizer.is_ready)
    good = issuer.token(scope="activity/* demo-dev/read", sub="me")

    http_port = start_gateway(kind, "http", authorizer.address, service, *(kind.http2 or []))
    kind.wait_until_it_serves(http_port, good)
    over_http1 = lambda *request: (lambda it: (it.status, it.headers["www-authenticate"]))(send(*request))
    compare = lambda ask, port, *requests: compare_http(
        kind, port, service, direct.quickstart, issuer, ask, *requests
    )
    cells["HTTP/1.1, compared with a service without a gateway"] = compare(over_http1, http_port)
    cells["HTTP/2, compared"] = compare(over_http2, http_port)
    cells["gRPC-Web, compared"] = compare_grpc_web(kind, http_port, service, issuer, direct.tonic)

    browsers = start_gateway(kind, "browsers", authorizer.address, service, *edits_for_browsers(kind))
    kind.wait_until_it_serves(browsers, good)
    cells["preflight and 401 with the lines for browsers"] = check_browsers(kind, browsers, service, good)

    if grpc_python is not None:
        peer = start(grpc_python, CLIENTS / "grpc_peer.py", "serve", stdout=subprocess.PIPE, text=True)
        peer = peer.stdout.readline().strip()
        call = Lines(grpc_python, CLIENTS / "grpc_peer.py", "call")
        address = f"h2c://{peer}" if kind.name == "caddy" else peer
        # In nginx, only the location of the README speaks gRPC.
        behind = service if kind.name == "nginx" else Address(address)
        grpc_port = start_gateway(kind, "grpc", authorizer.address, behind, *edits_for_grpc(kind, peer))
        kind.wait_until_it_serves(grpc_port, good)
        gateway = f"127.0.0.1:{grpc_port}"
        cells["gRPC, compared"] = compare_grpc(kind, gateway, peer, call, issuer, direct.tonic)
    if http3_python is not None and kind.name == "caddy":
        client = Lines(http3_python, CLIENTS / "http3.py")

        def over_http3(port, method, target, headers):
            answer = client(port=port, method=method, target=target, headers=headers)
            status = answer["status"]
            return int(status) if status.isdigit() else status, answer["challenge"]

        tls = [
            (r"admin off", "admin off\n\tskip_install_trust\n\tauto_https disable_redirects"),
            (r"\n:\{\$GATEWAY_PORT:8080\} \{", "\nhttps://localhost:{$GATEWAY_PORT} {\n\ttls internal"),
        ]
        port = start_gateway(kind, "http3", authorizer.address, service, *tls)
        # It makes a certificate first.
        wait_until("Caddy has a certificate", lambda: over_http3(port, "GET", "/health", [])[0] == 200)
        # aioquic accepts no answer to HEAD with a Content-Length.
        cells["HTTP/3, compared"] = compare(over_http3, port, [each for each in HTTP if each[0] != "HEAD"])
    if kind.name == "envoy":
        # The scripts of the other gateways do so.
        cells |= check_protocols(Gateway(kind, http_port, service), authorizer, issuer)
    cells |= kind.cells_of_failures(http_port, authorizer, service, issuer, good, check_errors)
    checks.figure(kind.title, json.dumps(cells))
    check_table(kind, cells)


def script(_):
    programs = build("issuer", "quickstart", "forward_auth", "ext_authz")
    programs |= build("tonic")
    pythons = []
    for package in ("grpcio==1.85.3", "aioquic==1.7.2"):
        try:
            pythons.append(pypi(package).python)
        except NotAvailable as error:
            checks.not_checked(package, error)
            pythons.append(None)

    def check_kind(kind):
        try:
            check_gateway(kind, programs, *pythons)
        except RuntimeError as error:
            checks.that(False, f"{kind.title} is checked to the end", error)

    only = sys.argv[1:]
    check_each([find for find in GATEWAYS if not only or find.__module__ in only], check_kind)


main(script, checks)
