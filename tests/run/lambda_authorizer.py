#!/usr/bin/env python3
"""Runs the Lambda authorizer of examples/lambda as AWS Lambda would, with its own Runtime API: events of
REST, HTTP and WebSocket APIs, cached policies, cold starts, and hours in the frozen state."""
# ci: all computes: the lines with FAIL say which event got which answer

import functools
import json
import re
import subprocess
import time

import lambda_sandbox
from harness import CLIENT_ID, ROOT, build, main, run
from lambda_sandbox import DistantIssuer, close_all

EVENTS = ROOT / "examples/lambda/events"
KINDS = {"REST TOKEN": "token", "REST REQUEST": "request", "HTTP API": "http"}
REST = "arn:aws:execute-api:ap-northeast-1:123456789012:a1b2c3d4e5/prod"
CONNECT = "arn:aws:execute-api:ap-northeast-1:123456789012:k1l2m3n4o5/prod/$connect"
HOUR = 3600
# What the client of API Gateway gets.
PASSES, UNAUTHORIZED, DENIED = 200, 401, 403

checks = None
Sandbox = None


def event(kind, method="GET", path="/item", authorization=()):
    """Returns the recorded event with another request. `authorization` is one value or several."""
    it = json.loads((EVENTS / f"authorizer-{KINDS[kind]}.json").read_text())
    values = [authorization] if isinstance(authorization, str) else list(authorization)
    if kind == "HTTP API":
        it["rawPath"] = path
        it["requestContext"]["http"].update(method=method, path=path)
        it["headers"].pop("authorization")
        if values:
            it["headers"]["authorization"] = ",".join(values)
        return it
    it["methodArn"] = f"{REST}/{method}{path}"
    if kind == "REST TOKEN":
        it["authorizationToken"] = values[0] if values else ""
        return it
    # The path below a custom domain has its base path, the ARN does not.
    it.update(path=f"/v1{path}", httpMethod=method)
    for headers in (it["headers"], it["multiValueHeaders"]):
        headers.pop("Authorization")
    if values:
        it["headers"]["Authorization"] = values[-1]
        it["multiValueHeaders"]["authorization"] = values
    return it


def connect(headers=()):
    """Returns the event of a WebSocket handshake with these headers, `(name, value)`."""
    it = json.loads((EVENTS / "authorizer-websocket.json").read_text())
    for name, value in headers:
        it["headers"][name] = value
        it["multiValueHeaders"].setdefault(name, []).append(value)
    return it


def matches(pattern, arn):
    """`*` and `?` as in a policy."""
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(parts), arn, re.DOTALL) is not None


def evaluate(policy, arn):
    """Returns whether API Gateway serves this request with the policy, which it may have cached."""
    effects = {
        statement["Effect"]
        for statement in policy["Statement"]
        if any(matches(resource, arn) for resource in statement["Resource"])
    }
    return PASSES if effects == {"Allow"} else DENIED


def status(answer, arn=None):
    """Returns the status that API Gateway makes of an answer of the authorizer."""
    kind, it = answer
    if kind == "error":
        return UNAUTHORIZED if it["errorMessage"] == "Unauthorized" else 500
    if "isAuthorized" in it:
        return PASSES if it["isAuthorized"] is True else DENIED
    return evaluate(it["policyDocument"], arn)


def ask(sandbox, kind, **request):
    it = event(kind, **request)
    return status(sandbox.invoke(it), it.get("methodArn"))


def bearer(token):
    return f"Bearer {token}"


def each_kind(issuer):
    now = int(time.time())
    both = bearer(issuer.token())
    items = bearer(issuer.token(scope="demo-dev/read"))
    expired = bearer(issuer.token(exp=now - 1))
    other = bearer(issuer.token("another-client"))
    sandbox = Sandbox(**issuer.settings)
    checks.figure("init, keys included", f"{sandbox.init_seconds * 1000:.0f} ms")
    post = {"method": "POST", "path": "/activity"}
    for kind in KINDS:
        for what, expected, request in (
            ("a valid token", PASSES, {"authorization": both}),
            ("a path with a parameter", PASSES, {"authorization": items, "path": "/item/7"}),
            ("HEAD", PASSES, {"authorization": items, "method": "HEAD"}),
            ("no token", UNAUTHORIZED, {}),
            ("another scheme", UNAUTHORIZED, {"authorization": "Basic YTpi"}),
            ("a garbage token", UNAUTHORIZED, {"authorization": "Bearer garbage"}),
            ("an expired token", UNAUTHORIZED, {"authorization": expired}),
            ("another client's token", UNAUTHORIZED, {"authorization": other}),
            ("a malformed header", DENIED, {"authorization": "Bearer"}),
            ("a missing scope", DENIED, {"authorization": items, **post}),
            ("the scope", PASSES, {"authorization": both, **post}),
            ("a path without a row", DENIED, {"authorization": both, "path": "/other"}),
            ("a longer path without a row", DENIED, {"authorization": both, "path": "/item/7/a"}),
            ("a method without a row", DENIED, {"authorization": both, "method": "DELETE"}),
            ("an ambiguous path", DENIED, {"authorization": both, "path": "/item/%2e"}),
            ("a wildcard as a path", DENIED, {"authorization": both, "path": "/item/*"}),
        ):
            actual = ask(sandbox, kind, **request)
            if kind == "HTTP API" and what == "a wildcard as a path":
                expected = PASSES  # There is no policy, so it is an ordinary name.
            checks.equal(f"{kind}: {what}", expected, actual)
    two = {"authorization": [both, both]}
    checks.equal("REST REQUEST: two headers", DENIED, ask(sandbox, "REST REQUEST", **two))
    checks.equal("HTTP API: two headers", UNAUTHORIZED, ask(sandbox, "HTTP API", **two))

    _, answer = sandbox.invoke(event("REST TOKEN", authorization=items))
    policy = answer["policyDocument"]
    for what, expected, resource in (
        ("another path", PASSES, "GET/item/7"),
        ("another method", PASSES, "HEAD/item"),
        ("a path that needs another scope", DENIED, "POST/activity"),
        ("a path without a row", DENIED, "GET/other"),
    ):
        actual = evaluate(policy, f"{REST}/{resource}")
        checks.equal(f"a cached policy, {what}", expected, actual)
    other_stage = evaluate(policy, f"{REST.replace('/prod', '/test')}/GET/item")
    checks.equal("a cached policy, another stage", DENIED, other_stage)
    _, denied = sandbox.invoke(event("REST TOKEN", authorization=items, **post))
    checks.equal(
        "the policy of a denied request serves what the token may call",
        (PASSES, DENIED),
        tuple(evaluate(denied["policyDocument"], f"{REST}/{it}") for it in ("GET/item", "POST/activity")),
    )
    context = {"client_id": CLIENT_ID, "sub": CLIENT_ID, "scope": "demo-dev/read"}
    checks.equal("the context", (CLIENT_ID, context), (answer["principalId"], answer["context"]))
    code = sandbox.end()
    checks.equal("SIGTERM ends it", 0, code)


def base_paths(issuer):
    token = bearer(issuer.token())

    def http(path, stage, domain, **settings):
        sandbox = Sandbox(**settings, **issuer.settings)
        it = event("HTTP API", path=path, authorization=token)
        it["requestContext"].update(stage=stage, domainName=domain)
        answer = status(sandbox.invoke(it))
        sandbox.close()
        return answer

    own = "f6g7h8i9j0.execute-api.ap-northeast-1.amazonaws.com"
    for what, expected, *request in (
        ("a named stage", PASSES, "/dev/item", "dev", own),
        ("a named stage that is not in the path", DENIED, "/item", "dev", own),
        ("a custom domain without a base path", PASSES, "/item", "dev", "api.example.com"),
        ("a base path that is not set", DENIED, "/v1/item", "dev", "api.example.com"),
    ):
        checks.equal(f"HTTP API: {what}", expected, http(*request))
    for what, expected, path in (
        ("a base path", PASSES, "/v1/item"),
        ("another base path", DENIED, "/v2/item"),
        ("a longer base path", DENIED, "/v11/item"),
        ("no base path", DENIED, "/item"),
    ):
        actual = http(path, "dev", "api.example.com", API_BASE_PATH="/v1")
        checks.equal(f"HTTP API, API_BASE_PATH=/v1: {what}", expected, actual)
    sandbox = Sandbox(API_BASE_PATH="v1/", **issuer.settings)
    checks.equal("a malformed API_BASE_PATH ends it", 1, sandbox.process.returncode)
    sandbox.close()


def websocket(issuer):
    sandbox = Sandbox(**issuer.settings)
    token, no_scope = issuer.token(), issuer.token(scope="activity/*")
    protocol = "Sec-WebSocket-Protocol"
    upgrade = ("Upgrade", "websocket")
    for what, expected, headers in (
        ("a header", PASSES, [("Authorization", bearer(token))]),
        ("a subprotocol", PASSES, [upgrade, (protocol, f"chat.v1, bearer.{token}")]),
        ("a subprotocol, as API Gateway removes Upgrade", PASSES, [(protocol, f"bearer.{token}")]),
        ("no token", UNAUTHORIZED, []),
        ("a garbage token", UNAUTHORIZED, [(protocol, "bearer.garbage")]),
        ("two tokens", DENIED, [(protocol, f"bearer.{token}, bearer.{token}")]),
        ("a missing scope", DENIED, [(protocol, f"bearer.{no_scope}")]),
        ("a missing scope, in the header", DENIED, [("Authorization", bearer(no_scope))]),
    ):
        answer = sandbox.invoke(connect(headers))
        checks.equal(f"WebSocket: {what}", expected, status(answer, CONNECT))
    sandbox.close()


def unknown_events(issuer):
    sandbox = Sandbox(**issuer.settings)
    token = issuer.token()
    for what, it in (
        ("an empty object", {}),
        ("a list", [token]),
        ("a header of another type", {**event("REST REQUEST"), "headers": bearer(token)}),
        ("an ARN without a path", {**event("REST TOKEN"), "methodArn": "arn:aws:a:b:c:d/e"}),
    ):
        kind, answer = sandbox.invoke(it)
        checks.equal(f"{what}: an error", ("error", "unknown event"), (kind, answer["errorMessage"]))
    checks.that(token.split(".")[1] not in sandbox.log(), "no part of a token is in the log")
    sandbox.close()


def no_keys(issuer):
    token = bearer(issuer.token())
    issuer.tell("fault down")
    sandbox = Sandbox(**issuer.settings)
    checks.at_most("no keys: the init phase in seconds", 9.5, sandbox.init_seconds)
    for kind in KINDS:
        it = event(kind, authorization=token)
        answer = sandbox.invoke(it)
        checks.equal(f"no keys: {kind}", DENIED, status(answer, it.get("methodArn")))
        error = answer[1]["context"]["error"]
        checks.equal(f"no keys: {kind}, the context", "temporarily_unavailable", error)
    answer = sandbox.invoke(connect([("Authorization", token)]))
    checks.equal("no keys: WebSocket", DENIED, status(answer, CONNECT))
    issuer.tell("fault none")
    sandbox.sleep(1)
    actual = ask(sandbox, "REST TOKEN", authorization=token)
    checks.equal("no keys: after the outage, the next request is served", PASSES, actual)
    sandbox.close()


def thaws(issuer, clocks):
    """Two frozen hours, during which the key is rotated and the old one removed."""
    sandbox = Sandbox(clocks, **issuer.settings)
    old = bearer(issuer.token(exp=int(time.time()) + 12 * HOUR))
    short = bearer(issuer.token())
    what = f"frozen, {clocks} clock(s) continued"
    checks.equal(f"{what}: before", PASSES, ask(sandbox, "REST TOKEN", authorization=old))
    issuer.tell("rotate")
    issuer.tell("withdraw")
    issuer.line.forget()
    sandbox.sleep(2 * HOUR)
    new = bearer(issuer.token(exp=int(time.time()) + 12 * HOUR))
    actual = ask(sandbox, "HTTP API", authorization=new)
    checks.equal(f"{what}: the first request has a new key's token", PASSES, actual)
    checks.at_most(f"{what}: seconds", 0.9, sandbox.seconds)
    actual = ask(sandbox, "REST TOKEN", authorization=old)
    checks.equal(f"{what}: a withdrawn key's token", UNAUTHORIZED, actual)
    actual = ask(sandbox, "REST REQUEST", authorization=short)
    checks.equal(f"{what}: an expired token", UNAUTHORIZED, actual)
    sandbox.close()


def script(all_checks):
    global checks, Sandbox
    checks = all_checks
    programs = build("issuer", "tower-cognito-lambda")
    # With the packages that `cargo test` builds, so that what they have in common is compiled once.
    packages = ["-p", "tower-cognito", "-p", "integration-tests", "-p", "tower-cognito-lambda"]
    done = run("cargo", "test", "--quiet", *packages, "--bins", stderr=subprocess.STDOUT,
               capture_output=False, stdout=subprocess.PIPE, timeout=600)  # fmt: skip
    checks.that(done.returncode == 0, "its unit tests, with every small table", done.stdout)
    Sandbox = functools.partial(lambda_sandbox.Sandbox, programs["authorizer"])
    with DistantIssuer(programs["issuer"]) as issuer:
        try:
            each_kind(issuer)
            base_paths(issuer)
            websocket(issuer)
            unknown_events(issuer)
            no_keys(issuer)
            thaws(issuer, "both")
            thaws(issuer, "wall")
        finally:
            close_all(show_logs=checks.failed)


main(script)
