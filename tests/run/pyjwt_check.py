#!/usr/bin/env python3
"""Verifies the tokens of the test issuer with PyJWT, as a second opinion.

    CLIENT_ID=… CLIENT_SECRET=… TOKEN_ENDPOINT_URL=… EXPIRED_TOKEN=… ID_TOKEN=… OTHER_CLIENT_TOKEN=… \\
        python3 pyjwt_check.py

The quickstart prints these values. Exits 1 if PyJWT disagrees.
"""

import os
import socket
import sys
from urllib.parse import urlsplit

import jwt

from client import access_token

REQUIRED = ["exp", "iat", "sub"]


def main():
    socket.setdefaulttimeout(10)  # Older releases of PyJWKClient have no `timeout`.
    endpoint, client_id = os.environ["TOKEN_ENDPOINT_URL"], os.environ["CLIENT_ID"]
    secret = os.environ["CLIENT_SECRET"]
    token = access_token(endpoint, client_id, secret)
    narrow = access_token(endpoint, client_id, secret, scope="activity/read")

    # A real verifier has the issuer in its configuration. Here the claim must be correct.
    issuer = jwt.decode(token, options={"verify_signature": False})["iss"]
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(endpoint))
    expect("the issuer is where the token endpoint is", issuer.startswith(origin + "/"), issuer)
    keys = jwt.PyJWKClient(issuer + "/.well-known/jwks.json")

    def verify(token, audience=None):
        return jwt.decode(
            token,
            keys.get_signing_key_from_jwt(token).key,
            algorithms=["RS256"],
            issuer=issuer,
            audience=audience,
            options={"require": REQUIRED},
        )

    claims = verify(token)
    expect("an access token", claims["token_use"] == "access", claims)
    expect("its client", claims["client_id"] == claims["sub"] == client_id, claims)
    expect("an hour of life", claims["exp"] - claims["iat"] == 3600, claims)
    expect("only the requested scope", verify(narrow)["scope"] == "activity/read", narrow)

    claims = verify(os.environ["ID_TOKEN"], audience=client_id)
    expect("an ID token", claims["token_use"] == "id", claims)
    claims = verify(os.environ["OTHER_CLIENT_TOKEN"])
    expect("a token of another client", claims["client_id"] != client_id, claims)

    rejected("an expired token", jwt.ExpiredSignatureError, verify, os.environ["EXPIRED_TOKEN"])
    header, payload, signature = token.split(".")
    _, other_payload, _ = narrow.split(".")
    changed = ".".join([header, other_payload, signature])
    rejected("a changed token", jwt.InvalidSignatureError, verify, changed)
    print("PyJWT is of the same opinion")


def expect(what, is_so, got):
    if not is_so:
        sys.exit(f"not so: {what}: {got}")


def rejected(what, error, verify, token):
    try:
        claims = verify(token)
    except error:
        return
    sys.exit(f"failed: {what} is rejected: {claims}")


if __name__ == "__main__":
    main()
