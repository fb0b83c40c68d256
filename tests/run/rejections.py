#!/usr/bin/env python3
"""Sends valid and hostile requests to the quickstart over real sockets, one of each kind, byte for byte,
and checks each answer: status, challenge and body. soak.py sends the same requests under load."""
# ci: merge waits: the lines with FAIL say which kind of request got which answer

import base64
import hashlib
import hmac
import http.client
import json
import socket
import time

from harness import CLIENT_ID, EXPIRED, INVALID, ITEMS, MALFORMED, MISSING_SCOPE, NO_TOKEN
from harness import Answer, Issuer, Rejection, Service, bearer, build, main, temporary_folder

SCOPE = MISSING_SCOPE.requiring("demo-dev/read")


class Expected:
    """An answer without a challenge."""

    challenge = ""

    def __init__(self, status, body=b""):
        self.status = status
        self.body = body


# The HTTP server itself answers, before any layer.
NO_HTTP = Expected(400)


def request(method, path, *headers, body=b""):
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: localhost"]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    lines += [header if isinstance(header, bytes) else header.encode() for header in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(*headers, path="/item"):
    return request("GET", path, *headers)


def encoded(text):
    data = text if isinstance(text, bytes) else text.encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def flipped(part):
    """Returns the token with one changed character in the middle."""
    middle = len(part) // 2
    other = "A" if part[middle] != "A" else "B"
    return part[:middle] + other + part[middle + 1 :]


def good_requests(tokens):
    """Returns valid requests: most to one route, and some to the other, which returns the body."""
    requests = [(get(bearer(token)), Expected(200, ITEMS)) for token in tokens]
    requests.append((get(f"Authorization: bearer {tokens[0]}"), Expected(200, ITEMS)))
    for token in tokens[:3]:
        event = json.dumps({"event": token[-16:]}).encode()
        requests.append((request("POST", "/activity", bearer(token), body=event), Expected(200, event)))
    return [("good", *one) for one in requests]


def hostile_requests(issuer, good):
    """Returns one request of each kind with its expected answer. Tokens with wrong claims have a valid
    signature."""
    now = int(time.time())
    header, payload, signature = good.split(".")
    other_signature = issuer.token().split(".")[2]
    claims = json.loads(decoded(payload))
    with_header = lambda **members: encoded(json.dumps({**json.loads(decoded(header)), **members}))
    keys = issuer.jwks()["keys"]
    key = next(key for key in keys if key["kid"] == json.loads(decoded(header))["kid"])
    hs256 = with_header(alg="HS256") + "." + payload
    mac = encoded(hmac.digest(decoded(key["n"]), hs256.encode(), hashlib.sha256))
    more_scopes = encoded(json.dumps({**claims, "scope": claims["scope"] + " admin"}))
    twice = encoded(decoded(payload).replace(b'"exp"', b'"exp":99999999999,"exp"'))
    no_key_id = encoded('{"alg":"RS256"}')
    signed = lambda **claims: get(bearer(issuer.token(**claims)))
    unsigned = lambda header, payload=payload: get(bearer(f"{header}.{payload}.{signature}"))

    return [
        ("no-token", get(), NO_TOKEN),
        ("basic", get("Authorization: Basic YTpi"), NO_TOKEN),
        ("other-scheme", get(f"Authorization: DPoP {good}"), NO_TOKEN),
        ("scheme-with-a-prefix", get(f"Authorization: xBearer {good}"), NO_TOKEN),
        ("token-in-the-query", get(path=f"/item?access_token={good}"), NO_TOKEN),
        ("bearer-without-a-token", get("Authorization: Bearer"), MALFORMED),
        ("two-headers", get(bearer(good), bearer(good)), MALFORMED),
        ("not-ascii", get(b"Authorization: Bearer \xff\xfe"), MALFORMED),
        ("control-characters", get(b"Authorization: Bearer a\x01\x00b"), NO_HTTP),
        ("garbage", get(bearer("garbage")), INVALID),
        ("a-second-word", get(bearer(good + " " + good)), INVALID),
        ("two-parts", get(bearer(f"{header}.{payload}")), INVALID),
        ("five-parts", get(bearer(f"{header}.{payload}.{payload}.{payload}.{signature}")), INVALID),
        ("no-signature", get(bearer(f"{header}.{payload}.")), INVALID),
        ("padding", get(bearer(good + "==")), INVALID),
        ("over-16-kib", get(bearer(f"{header}.{'A' * 16_384}.{signature}")), INVALID),
        ("sixty-thousand-dots", get(bearer("." * 60_000)), INVALID),
        ("tampered-header", unsigned(flipped(header)), INVALID),
        ("tampered-payload", unsigned(header, more_scopes), INVALID),
        ("tampered-signature", get(bearer(f"{header}.{payload}.{flipped(signature)}")), INVALID),
        ("signature-of-another", get(bearer(f"{header}.{payload}.{other_signature}")), INVALID),
        ("alg-none", get(bearer(with_header(alg="none") + f".{payload}.")), INVALID),
        ("alg-none-signed", unsigned(with_header(alg="none")), INVALID),
        ("alg-hs256-by-the-public-key", get(bearer(f"{hs256}.{mac}")), INVALID),
        ("alg-rs512", unsigned(with_header(alg="RS512")), INVALID),
        ("unknown-kid", unsigned(with_header(kid="unknown")), INVALID),
        ("no-kid", unsigned(no_key_id), INVALID),
        ("crit", unsigned(with_header(crit=["exp"])), INVALID),
        ("key-in-the-header", unsigned(with_header(jwk=key)), INVALID),
        ("duplicate-claim", unsigned(header, twice), INVALID),
        ("expired", signed(exp=now - 1), EXPIRED),
        ("not-yet-valid", signed(nbf=now + 7200), INVALID),
        ("exp-of-another-type", signed(exp=str(now + 3600)), INVALID),
        ("another-token-use", signed(token_use="id"), INVALID),
        ("another-client", get(bearer(issuer.token("another-client"))), INVALID),
        ("clients-in-a-list", signed(client_id=[CLIENT_ID]), INVALID),
        ("another-issuer", signed(iss=issuer.url + "/"), INVALID),
        ("sub-of-another-type", signed(sub=None), INVALID),
        ("sender-constrained", signed(cnf={"jkt": "abc"}), INVALID),
        ("scopes-in-a-list", signed(scope=["demo-dev/read"]), INVALID),
        ("another-scope", signed(scope="activity/* demo-dev/reader demo-dev/READ"), SCOPE),
        ("no-scope", signed(scope=""), SCOPE),
    ]


def send(address, text):
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), 20) as stream:
        stream.sendall(text)
        response = http.client.HTTPResponse(stream)
        response.begin()
        return Answer(response)


def script(checks):
    programs = build("issuer", "quickstart")
    with temporary_folder() as folder, Issuer(programs["issuer"]) as issuer:
        with Service(programs["quickstart"], issuer, folder, "server") as service:
            checks.that(service.becomes_ready(60), "it starts", service.log.read_text())
            tokens = [issuer.token() for _ in range(4)]
            for kind, text, expected in good_requests(tokens) + hostile_requests(issuer, tokens[0]):
                answer = send(service.address, text)
                if isinstance(expected, Rejection):
                    checks.rejected(kind, expected, answer)
                else:
                    seen = answer.status, answer.body, answer.headers["www-authenticate"]
                    checks.equal(kind, (expected.status, expected.body, None), seen)
            log = service.log.read_text(errors="replace")
            quiet = "panicked" not in log and " ERROR " not in log
            checks.that(quiet, "no panic, and no error in the log", log)
            parts = {part for part in tokens[0].split(".")[1:] if part in log}
            checks.equal("no part of a token is in the log", set(), parts)
            checks.equal("SIGTERM ends it", 0, service.stop())


if __name__ == "__main__":
    main(script)
