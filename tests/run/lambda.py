#!/usr/bin/env python3
"""Runs the function of examples/lambda as AWS Lambda would, with its own Runtime API: events of API
Gateway, function URLs and load balancers, cold starts, and hours in the frozen state."""
# ci: all computes: the lines with FAIL say which event got which answer

import base64
import contextlib
import functools
import json
import re
import time
import urllib.request
from pathlib import Path

import lambda_sandbox
from harness import (
    CLIENT_ID,
    EXPIRED,
    INVALID,
    MALFORMED,
    MISSING_SCOPE,
    NO_TOKEN,
    ROOT,
    build,
    main,
)
from lambda_sandbox import DistantIssuer, close_all

EVENTS = ROOT / "examples/lambda/events"

CLIENT = CLIENT_ID
NO_SCOPE = MISSING_SCOPE.requiring("activity/*")
SECRET = "not-a-secret-outside-this-test"
HOUR = 3600
ITEMS = '[{"test": "hoge"}]'
HELLO = '{"message":"Hello"}'

# Set by the script: its checks, and `Sandbox` with its function.
checks = None
Sandbox = None


def equal(what, expected, actual):
    checks.equal(what, expected, actual)


def at_most(what, limit, actual):
    checks.at_most(what, limit, actual)


# ---- Events and answers ------------------------------------------------------------------------

GATEWAYS = {
    "REST API": "rest",
    "HTTP API": "http",
    "function URL": "function-url",
    "load balancer": "alb",
}


def event(gateway, method="GET", path="/item", authorization=(), body=None, headers=None):
    """Returns the recorded event with another request. `authorization` is one value or several."""
    it = json.loads((EVENTS / f"{GATEWAYS[gateway]}.json").read_text())
    values = [authorization] if isinstance(authorization, str) else list(authorization)
    lines = {**(headers or {}), **({"Authorization": values} if values else {})}
    lines = {name: [v] if isinstance(v, str) else v for name, v in lines.items()}
    if it.get("version") == "2.0":
        it["rawPath"] = path
        it["requestContext"]["http"].update(method=method, path=path)
        it["headers"].update({name.lower(): ",".join(v) for name, v in lines.items()})
    else:
        it["path"], it["httpMethod"] = path, method
        it["multiValueHeaders"].update(lines)
        if "headers" in it:
            it["headers"].update({name: v[-1] for name, v in lines.items()})
    if body is not None:
        is_text = isinstance(body, str)
        it["body"] = body if is_text else base64.b64encode(body).decode()
        it["isBase64Encoded"] = not is_text
    return it


class Answer:
    def __init__(self, posted):
        self.kind, it = posted
        self.raw = it
        self.status = it.get("statusCode")
        headers = {}
        for name, value in it.get("headers", {}).items():
            headers[name.lower()] = [value]
        for name, values in (it.get("multiValueHeaders") or {}).items():
            headers[name.lower()] = values
        self.headers = headers
        body = it.get("body") or ""
        self.body = base64.b64decode(body) if it.get("isBase64Encoded") else body

    def header(self, name):
        return ", ".join(self.headers.get(name, []))

    def __str__(self):
        return f"{self.kind} {self.status} {self.header('content-type')} {self.body}"


def call(sandbox, gateway="function URL", **request):
    return Answer(sandbox.invoke(event(gateway, **request)))


def served(what, sandbox, expected, gateway="function URL", **request):
    answer = call(sandbox, gateway, **request)
    equal(what, f"response 200 application/json {expected}", str(answer))


def rejected(what, sandbox, rejection, gateway="function URL", **request):
    answer = call(sandbox, gateway, **request)
    body = answer.body.encode() if isinstance(answer.body, str) else answer.body
    equal(
        what,
        (
            "response",
            rejection.status,
            rejection.challenge,
            "no-store",
            "application/json",
            b"" if request.get("method") == "HEAD" else rejection.body,
        ),
        (
            answer.kind,
            answer.status,
            answer.header("www-authenticate"),
            answer.header("cache-control"),
            answer.header("content-type"),
            body,
        ),
    )


def unavailable(what, sandbox, **request):
    answer = call(sandbox, **request)
    retry_after = answer.header("retry-after")
    equal(
        what,
        ("response", 503, "", True, True),
        (
            answer.kind,
            answer.status,
            answer.header("www-authenticate"),
            '"error":"temporarily_unavailable"' in str(answer.body),
            retry_after.isdigit() and 1 <= int(retry_after) <= 30,
        ),
    )


def bearer(token):
    return f"Bearer {token}"


# ---- What is checked ---------------------------------------------------------------------------

figures = {}


def each_gateway(issuer):
    now = int(time.time())
    good = bearer(issuer.token())
    narrow = bearer(issuer.token(scope="activity/read"))
    expired = bearer(issuer.token(exp=now - 1))
    other = bearer(issuer.token("another-client"))
    sandbox = Sandbox(AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH="1", **issuer.settings)
    figures["init, keys included"] = sandbox.init_seconds

    for gateway in GATEWAYS:

        def ask(what, *expected, gateway=gateway, **request):
            rejected(f"{gateway}: {what}", sandbox, *expected, gateway=gateway, **request)

        post = {
            "method": "POST",
            "path": "/activity",
            "headers": {"Content-Type": "application/json"},
        }
        served(f"{gateway}: the items", sandbox, ITEMS, gateway, authorization=good)
        served(
            f"{gateway}: an event", sandbox, HELLO, gateway, authorization=good, body=HELLO, **post
        )
        served(
            f"{gateway}: an event in base64",
            sandbox,
            "ただいま",
            gateway,
            authorization=good,
            body="ただいま".encode(),
            **post,
        )
        answer = call(sandbox, gateway, authorization=good, body=b"\xff\xfe", **post)
        equal(f"{gateway}: an event that is not text", 400, answer.status)
        ask("no token", NO_TOKEN)
        ask("no token, with an event", NO_TOKEN, body=HELLO, **post)
        ask("no token, on an unknown path", NO_TOKEN, path="/unknown")
        ask("the Basic scheme", NO_TOKEN, authorization="Basic YTpi")
        ask("Bearer without a token", MALFORMED, authorization="Bearer")
        ask("a garbage token", INVALID, authorization="Bearer garbage")
        ask("an expired token", EXPIRED, authorization=expired)
        ask("another client's token", INVALID, authorization=other)
        ask("a token without the scope", NO_SCOPE, authorization=narrow, body=HELLO, **post)
        grpc = {**post, "headers": {"Content-Type": "application/grpc"}}
        ask("no token, and it looks like gRPC", NO_TOKEN, body=HELLO, **grpc)
        ask("HEAD without a token", NO_TOKEN, method="HEAD")
        answer = call(sandbox, gateway, method="HEAD", authorization=good)
        equal(f"{gateway}: HEAD with a token", "response 200 application/json ", str(answer))
        answer = call(sandbox, gateway, path="/unknown", authorization=good)
        equal(f"{gateway}: with a token, an unknown path is not found", 404, answer.status)

    for gateway in ("HTTP API", "function URL"):
        rejected(
            f"{gateway}: two tokens, joined by a comma",
            sandbox,
            INVALID,
            gateway,
            authorization=[good, good],
        )
    rejected(
        "load balancer: two tokens",
        sandbox,
        MALFORMED,
        "load balancer",
        authorization=[good, good],
    )
    # lambda_http sees only the last header, which is in `headers`.
    rejected(
        "REST API: two tokens, the last is bad",
        sandbox,
        EXPIRED,
        "REST API",
        authorization=[good, expired],
    )
    served(
        "REST API: two tokens, the last is good",
        sandbox,
        ITEMS,
        "REST API",
        authorization=[expired, good],
    )

    # The adapter panics at an invalid host. This fails one event, but not the function.
    hostile = call(sandbox, headers={"Host": "["}, authorization=good)
    equal("a host that is none is an error", ("error", None), (hostile.kind, hostile.status))
    served("and the next request is served", sandbox, ITEMS, authorization=good)
    big = call(sandbox, method="POST", path="/activity", authorization=good, body="x" * 2_100_000)
    equal("more than 2 MB is too large", 413, big.status)

    before = issuer.fetches()
    for _ in range(50):
        call(sandbox, authorization=good)
    equal("50 requests cause no fetch", before, issuer.fetches())
    equal("SIGTERM ends it", 0, sandbox.end())


def stages(issuer):
    good = bearer(issuer.token())
    sandbox = Sandbox(**issuer.settings)
    answer = call(sandbox, "REST API", authorization=good)
    equal("a REST API's stage is in the path, unless it is to be ignored", 404, answer.status)
    sandbox.close()
    sandbox = Sandbox(AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH="1", **issuer.settings)
    answer = call(sandbox, "HTTP API", path="/prod/item", authorization=good)
    equal("an HTTP API's named stage is in the path in any case", 404, answer.status)
    sandbox.close()


def stories(issuer):
    """Both user stories, with tokens from the token endpoint."""
    sandbox = Sandbox(**issuer.settings)
    credentials = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
    request = urllib.request.Request(
        issuer.token_url,
        data=b"grant_type=client_credentials",
        headers={"Authorization": f"Basic {credentials}"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as response:
        answer = json.load(response)
    equal(
        "the token endpoint answers a client",
        (["access_token", "expires_in", "token_type"], 3600, "Bearer"),
        (sorted(answer), answer["expires_in"], answer["token_type"]),
    )
    token = bearer(answer["access_token"])
    post = {"method": "POST", "path": "/activity", "body": HELLO}
    served("event webhook: the event comes back", sandbox, HELLO, authorization=token, **post)
    rejected("event webhook: without a token it is rejected", sandbox, NO_TOKEN, **post)
    served("system to system: the items", sandbox, ITEMS, authorization=token)
    sandbox.sleep(HOUR)
    rejected(
        "event webhook: an hour later it is expired",
        sandbox,
        EXPIRED,
        authorization=token,
        **post,
    )
    rejected(
        "system to system: an hour later it is expired", sandbox, EXPIRED, authorization=token
    )
    sandbox.close()


def cold_starts(issuer):
    good = bearer(issuer.token())

    def ends(what, said, **settings):
        sandbox = Sandbox(**{**issuer.settings, **settings})
        equal(what, (1, True), (sandbox.process.returncode, said in sandbox.log()))
        sandbox.close()

    ends(
        "a setting that is not known ends the init phase",
        "COGNITO_REQUIRED_SCOPE`",
        COGNITO_REQUIRED_SCOPE="a/b",
    )
    ends("so does a malformed one", "COGNITO_CLIENT_IDS`", COGNITO_CLIENT_IDS="a,,b")

    # The keys of a pool that does not exist verify no token.
    wrong = issuer.settings["COGNITO_JWKS_URL"].replace("_TestIssuer", "_Another")
    sandbox = Sandbox(**{**issuer.settings, "COGNITO_JWKS_URL": wrong})
    unavailable("a pool that is not there: 503", sandbox, authorization=good)
    equal("and the log has the reason", True, "404" in sandbox.log())
    sandbox.close()

    issuer.tell("fault slow 2000")
    sandbox = Sandbox(**issuer.settings)
    figures["init, the issuer takes 2 s"] = sandbox.init_seconds
    served("a slow issuer: the first request is served", sandbox, ITEMS, authorization=good)
    at_most("and it did not wait, seconds", 0.9, sandbox.seconds)
    sandbox.close()

    issuer.tell("fault slow 60000")
    sandbox = Sandbox(**issuer.settings)
    figures["init, the issuer hangs"] = sandbox.init_seconds
    at_most("an issuer that hangs: the init phase in seconds", 9.5, sandbox.init_seconds)
    unavailable("and the first request is told to come back", sandbox, authorization=good)
    at_most("after seconds", 1.5, sandbox.seconds)
    sandbox.close()

    issuer.tell("fault down")
    sandbox = Sandbox(**issuer.settings)
    at_most("the issuer is down: the init phase in seconds", 9.5, sandbox.init_seconds)
    unavailable("the first request is told to come back", sandbox, authorization=good)
    before = issuer.fetches()
    for _ in range(20):
        call(sandbox, authorization=good)
    at_most("20 more at once: fetches", 2, issuer.fetches() - before)
    issuer.tell("fault none")
    sandbox.sleep(1)
    served("it is back: the next request is served", sandbox, ITEMS, authorization=good)
    sandbox.close()


def scales_out(issuer):
    """Many sandboxes at once, before and during an outage."""
    token = bearer(issuer.token())
    before = issuer.fetches()
    sandboxes = [Sandbox(**issuer.settings) for _ in range(5)]
    equal("five sandboxes start: fetches", 5, issuer.fetches() - before)
    issuer.tell("fault down")
    sandboxes.append(Sandbox(**issuer.settings))
    unavailable("the issuer is down: a new sandbox", sandboxes[-1], authorization=token)
    served("and one that has keys", sandboxes[0], ITEMS, authorization=token)
    issuer.tell("fault none")
    for sandbox in sandboxes:
        sandbox.close()


def thaws(issuer, clocks, name):
    """Two frozen hours, during which the key is rotated and the old one removed."""

    def thawed(withdraw=True, **claims):
        sandbox = Sandbox(clocks, **issuer.settings)
        old = bearer(issuer.token(exp=int(time.time()) + claims.get("old", 12) * HOUR))
        served(f"{name}: before", sandbox, ITEMS, authorization=old)
        issuer.tell("rotate")
        if withdraw:
            issuer.tell("withdraw")
        issuer.line.forget()
        sandbox.sleep(2 * HOUR)
        return sandbox, old, issuer.fetches()

    sandbox, old, before = thawed()
    new = bearer(issuer.token(exp=int(time.time()) + 12 * HOUR))
    what = f"{name}: two hours later, the first request has a new key's token"
    served(what, sandbox, ITEMS, authorization=new)
    figures[f"first request after a thaw, {clocks}"] = sandbox.seconds
    at_most(f"{name}: seconds", 0.9, sandbox.seconds)
    fetched = issuer.fetches() - before
    at_most(f"{name}: fetches", 2, fetched)
    figures[f"fetches after a thaw, {clocks}"] = fetched
    what = f"{name}: a withdrawn key's token is rejected after it"
    rejected(what, sandbox, INVALID, authorization=old)
    issuer.tell("rotate")
    issuer.tell("withdraw")
    issuer.line.forget()
    sandbox.sleep(2 * HOUR)
    what = f"{name}: and so is the other, another two hours later"
    rejected(what, sandbox, INVALID, authorization=new)
    sandbox.close()

    sandbox, old, before = thawed(withdraw=False, old=1)
    rejected(f"{name}: or a token that expired meanwhile", sandbox, EXPIRED, authorization=old)
    at_most(f"{name}: fetches", 2, issuer.fetches() - before)
    sandbox.close()

    sandbox, old, before = thawed()
    rejected(f"{name}: or a withdrawn key's token", sandbox, INVALID, authorization=old)
    # One more fetch, because its key is unknown now.
    at_most(f"{name}: fetches", 3, issuer.fetches() - before)
    sandbox.close()


def little_traffic(issuer):
    """One request a minute, frozen in between: background tasks hardly run."""
    sandbox = Sandbox(**issuer.settings)
    before = issuer.fetches()
    token = bearer(issuer.token(exp=int(time.time()) + 12 * HOUR))
    statuses = []
    for minute in range(60):
        if minute == 30:
            fetched = issuer.fetches() - before
            issuer.tell("rotate")
            issuer.tell("withdraw")
        sandbox.sleep(60)
        statuses.append(call(sandbox, authorization=token).status)
        if statuses[-1] == 401:
            break
    trusted = len(statuses) - 31
    equal("a request a minute: served, until the key is withdrawn", [200] * 30, statuses[:30])
    at_most("a request a minute: minutes for which a withdrawn key is trusted", 6, trusted)
    at_most("a request a minute: fetches in half an hour", 15, fetched)
    figures["fetches in half an hour, a request a minute"] = fetched
    sandbox.close()


def outage(issuer):
    sandbox = Sandbox(**issuer.settings)
    token = bearer(issuer.token(exp=int(time.time()) + 48 * HOUR))
    served("an outage: before", sandbox, ITEMS, authorization=token)
    issuer.tell("fault slow 60000")
    sandbox.sleep(2 * HOUR)
    before = issuer.fetches()
    served(
        "an outage: two hours later, by the keys that are there",
        sandbox,
        ITEMS,
        authorization=token,
    )
    at_most("an outage: seconds that it waited", 1.5, sandbox.seconds)
    waited = 0
    for _ in range(50):
        call(sandbox, authorization=token)
        waited += sandbox.seconds > 0.9
    at_most("an outage: of 50 more, how many waited", 1, waited)
    at_most("an outage: fetches", 2, issuer.fetches() - before)
    issuer.tell("fault down")
    sandbox.sleep(21 * HOUR)
    served("an outage: for 23 hours", sandbox, ITEMS, authorization=token)
    sandbox.sleep(HOUR)
    unavailable("an outage: after 24 hours the keys are too old", sandbox, authorization=token)
    issuer.tell("fault none")
    sandbox.sleep(1)
    served("it is over: the next request is served", sandbox, ITEMS, authorization=token)
    sandbox.close()


def logs(issuer):
    token = issuer.token()
    sandbox = Sandbox(AWS_LAMBDA_LOG_FORMAT="JSON", AWS_LAMBDA_LOG_LEVEL="TRACE", **issuer.settings)
    call(sandbox, method="POST", path="/activity", authorization=bearer(token), body=HELLO)
    call(sandbox, authorization=bearer(token[:-4]))
    lines = [json.loads(line) for line in sandbox.log().splitlines()]
    events = [line for line in lines if line.get("fields", {}).get("message") == "event received"]
    clients = [line["fields"]["client"] for line in events]
    equal("the log is JSON, and has the event with its client", [CLIENT], clients)
    parts = token.split(".")
    equal("no part of a token is in it", [], [part for part in parts if part in sandbox.log()])
    sandbox.close()


def script(all_checks):
    global checks, Sandbox
    checks = all_checks
    programs = build("issuer", "tower-cognito-lambda")
    Sandbox = functools.partial(lambda_sandbox.Sandbox, programs["bootstrap"])
    with DistantIssuer(programs["issuer"]) as issuer:
        try:
            issuer.tell(f"client {CLIENT} {SECRET} activity/* demo-dev/read")
            each_gateway(issuer)
            stages(issuer)
            stories(issuer)
            cold_starts(issuer)
            scales_out(issuer)
            thaws(issuer, "both", "frozen, both clocks continued")
            thaws(issuer, "wall", "frozen, the monotonic clock too")
            little_traffic(issuer)
            outage(issuer)
            logs(issuer)
        finally:
            close_all(show_logs=checks.failed)
    versions = re.findall(rb"\bGLIBC_2\.(\d+)\b", Path(programs["bootstrap"]).read_bytes())
    figures["glibc that the function needs"] = f"2.{max(map(int, versions))}"
    for what, value in figures.items():
        checks.figure(what, f"{value * 1000:.0f} ms" if isinstance(value, float) else value)


main(script)
