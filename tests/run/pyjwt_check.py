#!/usr/bin/env python3
"""Verifies the tokens of the quickstart with PyJWT, as a second opinion. quickstart.py starts it with the
values that the quickstart prints, in an environment that has requests and PyJWT."""

import os
import socket
from urllib.parse import urlsplit

import jwt

from client import access_token
from harness import main


def script(checks):
    socket.setdefaulttimeout(10)  # Older releases of PyJWKClient have no `timeout`.
    endpoint, client_id = os.environ["TOKEN_ENDPOINT_URL"], os.environ["CLIENT_ID"]
    secret = os.environ["CLIENT_SECRET"]
    token = access_token(endpoint, client_id, secret)
    narrow = access_token(endpoint, client_id, secret, scope="activity/read")

    # A real verifier has the issuer in its configuration. Here the claim must be correct.
    issuer = jwt.decode(token, options={"verify_signature": False})["iss"]
    origin = "{0.scheme}://{0.netloc}/".format(urlsplit(endpoint))
    checks.that(issuer.startswith(origin), "the issuer is where the token endpoint is", issuer)
    keys = jwt.PyJWKClient(issuer + "/.well-known/jwks.json")

    def verify(token, audience=None):
        """Returns the claims, or the name of the error."""
        try:
            return jwt.decode(
                token,
                keys.get_signing_key_from_jwt(token).key,
                algorithms=["RS256"],
                issuer=issuer,
                audience=audience,
                options={"require": ["exp", "iat", "sub"]},
            )
        except jwt.InvalidTokenError as error:
            return type(error).__name__

    claims = verify(token)
    checks.equal("an access token", "access", claims["token_use"])
    checks.equal("its client", {client_id}, {claims["client_id"], claims["sub"]})
    checks.equal("an hour of life", 3600, claims["exp"] - claims["iat"])
    checks.equal("only the requested scope", "activity/read", verify(narrow)["scope"])
    claims = verify(os.environ["ID_TOKEN"], audience=client_id)
    checks.equal("an ID token", "id", claims["token_use"])
    claims = verify(os.environ["OTHER_CLIENT_TOKEN"])
    checks.that(claims["client_id"] != client_id, "a token of another client")

    expired = verify(os.environ["EXPIRED_TOKEN"])
    checks.equal("an expired token", "ExpiredSignatureError", expired)
    (header, _, signature), (_, payload, _) = token.split("."), narrow.split(".")
    changed = verify(f"{header}.{payload}.{signature}")
    checks.equal("a changed token", "InvalidSignatureError", changed)


main(script)
