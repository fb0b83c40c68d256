#!/usr/bin/env python3
"""Uses the quickstart as its user would, with curl, requests and PyJWT, and checks every answer."""
# ci: merge waits: the lines with FAIL say what was expected and what came

import base64
import json
import os
import re
import signal
import socket
import subprocess
from email import message_from_string
from pathlib import Path
from types import SimpleNamespace

from harness import EXPIRED, INVALID, MALFORMED, MISSING_SCOPE, NO_TOKEN, Program, build, debian
from harness import environment, main, pypi, run, temporary_folder

PACKAGES = ["requests==2.34.2", "pyjwt[crypto]==2.15.1"]
NAMES = (
    "CLIENT_ID CLIENT_SECRET TOKEN_ENDPOINT_URL API_URL ACTIVITY_URL "
    "EXPIRED_TOKEN ID_TOKEN OTHER_CLIENT_TOKEN"
).split()
EVENT = '{"message":"Hello"}'
JSON = "application/json"


class Quickstart(Program):
    """A running quickstart. `values` are the variables that it printed."""

    def __init__(self, checks, program, folder, name, last_line, **settings):
        # The output is that of a user who has not set RUST_LOG.
        settings = {"QUICKSTART_API": "127.0.0.1:0", "RUST_LOG": None, **settings}
        super().__init__(folder, name, program, **settings)
        is_printed = self.prints(last_line, 120)
        said = self.output.read_text() + self.log.read_text()
        if not checks.that(is_printed, f"the {name} process prints {last_line}", said):
            raise RuntimeError("it does not start")

    @property
    def lines(self):
        return self.output.read_text().splitlines()

    @property
    def values(self):
        return dict(line.split("=", 1) for line in self.lines if "=" in line)

    def ends(self, number):
        self.process.send_signal(number)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            return "it still runs after 10 s"


def curl(url, *options, token=None):
    """Returns status, headers and body."""
    header = ["--header", f"Authorization: Bearer {token}"] if token else []
    command = [debian("curl"), "--silent", "--show-error", "--max-time", "20", "--include"]
    done = run(*command, *options, *header, "--url", url, text=False)
    if done.returncode:
        return SimpleNamespace(status=f"curl: {done.stderr!r}", headers={}, body=b"")
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    line, _, headers = head.decode().partition("\r\n")
    headers = message_from_string(headers)
    return SimpleNamespace(status=int(line.split()[1]), headers=headers, body=body)


def claim(token, name):
    """Returns a claim of the payload without verification."""
    return json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))[name]


def tokens(checks, values):
    """Returns a token with all scopes of the client, and one with only `activity/read`."""
    url = values["TOKEN_ENDPOINT_URL"]
    basic = ["--user", f"{values['CLIENT_ID']}:{values['CLIENT_SECRET']}"]
    grant = ["--data-urlencode", "grant_type=client_credentials"]
    scope = lambda name: ["--data-urlencode", f"scope={name}"]

    answer = curl(url, *basic, *grant)
    it = json.loads(answer.body)
    token = it.pop("access_token")
    seen = answer.status, answer.headers["content-type"], it
    expected = 200, JSON, {"expires_in": 3600, "token_type": "Bearer"}
    checks.equal("the token endpoint answers a client", expected, seen)
    what = "without a scope the token has all of the client"
    checks.equal(what, "activity/* activity/read demo-dev/read", claim(token, "scope"))
    narrow = json.loads(curl(url, *basic, *grant, *scope("activity/read")).body)["access_token"]
    checks.equal("with a scope the token has that one", "activity/read", claim(narrow, "scope"))

    for what, error, *options in [
        ("a wrong secret", "invalid_client", "--user", f"{values['CLIENT_ID']}:wrong", *grant),
        ("an unknown client", "invalid_client", "--user", "unknown:x", *grant),
        ("no grant type", "invalid_request", *basic, *scope("activity/read")),
        ("another grant type", "unsupported_grant_type", *basic, "--data", "grant_type=password"),
        ("an unknown scope", "invalid_scope", *basic, *grant, *scope("nope/nope")),
        ("a repeated parameter", "invalid_request", *basic, *grant, *grant),
    ]:
        answer = curl(url, *options)
        seen = answer.status, answer.headers["content-type"], json.loads(answer.body)
        checks.equal(what, (400, JSON, {"error": error}), seen)
    return token, narrow


def served(checks, values, token, log):
    url = values["ACTIVITY_URL"]
    answer = curl(url, "--data", EVENT, token=token)
    checks.equal("an event comes back", (200, EVENT.encode()), (answer.status, answer.body))
    what = "the event is in the log, with its client"
    event = r'event="{\"message\":\"Hello\"}"'
    checks.contains(what, log.read_text(), f'client="{values["CLIENT_ID"]}"', event)
    random = os.urandom(100_000)
    (log.parent / "random").write_bytes(random)
    octets = ["--header", "Content-Type: application/octet-stream"]
    answer = curl(url, *octets, "--data-binary", f"@{log.parent / 'random'}", token=token)
    checks.that((answer.status, answer.body) == (200, random), "100 KB of random bytes come back")
    answer = curl(values["API_URL"].replace("/item", "/unknown"), token=token)
    checks.equal("with a token, an unknown path is not found", 404, answer.status)

    python, settings = pypi(*PACKAGES).python, {**os.environ, **values}
    done = run(python, Path(__file__).with_name("client.py"), env=settings)
    said = done.stdout + done.stderr
    checks.equal("the Python client gets the items", "[{'test': 'hoge'}]\n", said)
    done = run(python, Path(__file__).with_name("pyjwt_check.py"), env=settings)
    for what in re.findall("^ok - (.*)$", done.stdout, re.MULTILINE):
        checks.that(True, f"PyJWT: {what}")
    checks.equal("PyJWT verifies the tokens, too", 0, done.returncode) or print(done.stdout)


def rejections(checks, values, token, narrow):
    api, activity = values["API_URL"], values["ACTIVITY_URL"]
    scope = MISSING_SCOPE.requiring("activity/*")
    header = ["--header", f"Authorization: Bearer {token}"]
    basic = ["--user", f"{values['CLIENT_ID']}:{values['CLIENT_SECRET']}"]
    for what, rejection, url, options, sent in [
        ("no token", NO_TOKEN, api, [], None),
        ("no token, with an event", NO_TOKEN, activity, ["--data", EVENT], None),
        ("the Basic scheme", NO_TOKEN, api, basic, None),
        ("no token, on an unknown path", NO_TOKEN, api.replace("/item", "/unknown"), [], None),
        ("a token in the query", NO_TOKEN, f"{api}?access_token={token}", [], None),
        ("Bearer without a token", MALFORMED, api, ["--header", "Authorization: Bearer"], None),
        ("two Authorization headers", MALFORMED, api, header, token),
        ("an expired token", EXPIRED, api, [], values["EXPIRED_TOKEN"]),
        ("a garbage token", INVALID, api, [], "garbage"),
        ("an ID token", INVALID, api, [], values["ID_TOKEN"]),
        ("another client's token", INVALID, api, [], values["OTHER_CLIENT_TOKEN"]),
        ("a token without the scope", scope, activity, ["--data", EVENT], narrow),
    ]:
        answer = curl(url, *options, token=sent)
        checks.rejected(what, rejection, answer)

    # curl would ignore a body.
    with socket.create_connection(("127.0.0.1", int(api.split(":")[2].split("/")[0]))) as stream:
        stream.sendall(b"HEAD /item HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = stream.makefile("rb").read().partition(b"\r\n\r\n")
    headers = [f"{name}: {value}" for name, value in curl(api).headers.items()]
    lines = head.decode().splitlines()[1:]
    seen = [line for line in lines if not line.startswith(("date:", "connection:"))]
    expected = [line for line in headers if not line.startswith("date:")]
    checks.equal("HEAD without a token: the headers of GET, no body", (expected, b""), (seen, body))


def wrong_issuer(checks, program, values):
    """Other invalid settings are in tests/it/examples.rs."""
    issuer = values["TOKEN_ENDPOINT_URL"].replace("/oauth2/token", "/us-east-1_Another")
    settings = {"COGNITO_ISSUER": issuer, "COGNITO_CLIENT_IDS": "a", "QUICKSTART_API": "127.0.0.1:0"}
    done = run(program, env=environment(**settings), timeout=15)
    checks.equal("an issuer without that user pool: it exits", 1, done.returncode)
    named = f"{issuer}/.well-known/jwks.json", "404"
    checks.contains("an issuer without that user pool: it says so", done.stderr, *named)


def script(checks):
    program = build("quickstart")["quickstart"]
    with temporary_folder() as folder:
        own = {"QUICKSTART_ISSUER": "127.0.0.1:0"}
        first = Quickstart(checks, program, folder, "first", "^ready$", **own)
        names = [line.split("=", 1)[0] for line in first.lines]
        what = "the values come first, in their order, and then ready"
        checks.equal(what, [*NAMES, "ready"], names[: len(NAMES) + 1])
        values = first.values
        token, narrow = tokens(checks, values)
        served(checks, values, token, first.log)
        rejections(checks, values, token, narrow)
        wrong_issuer(checks, program, values)

        trusted = {
            "COGNITO_ISSUER": claim(token, "iss"),
            "COGNITO_CLIENT_IDS": values["CLIENT_ID"],
        }
        second = Quickstart(checks, program, folder, "second", "^ACTIVITY_URL=", **trusted)
        answer = curl(second.values["ACTIVITY_URL"], "--data", EVENT, token=token)
        what = "another process accepts the first one's tokens"
        checks.equal(what, (200, EVENT.encode()), (answer.status, answer.body))
        answer = curl(second.values["API_URL"], token=values["EXPIRED_TOKEN"])
        checks.rejected("it rejects an expired token", EXPIRED, answer)
        checks.equal("SIGINT ends it", 0, second.ends(signal.SIGINT))
        checks.equal("SIGTERM ends it", 0, first.ends(signal.SIGTERM))


main(script)
