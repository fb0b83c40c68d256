#!/usr/bin/env bash
# Package: django-cognito-jwt 0.0.4 (PyPI) with Django 5.2.19 and djangorestframework 3.18.3.
#
# The authentication class rejects every access token that a user pool issues, unless the token is
# bound to a resource: it always compares `aud` with the setting COGNITO_AUDIENCE, and Cognito's
# access tokens have `client_id` instead. ID tokens pass. It also fetches the JWK Set for every
# request with a token, because it creates a validator for each request and caches no keys by
# default (COGNITO_PUBLIC_KEYS_CACHING_ENABLED).
#
# Expected: an access token of the configured app client is accepted, and one fetch serves several requests.
# Seen (all tokens are valid, issued to the app client in COGNITO_AUDIENCE; fetches so far):
#   ID token, three times          accepted, 3 fetches
#   access token                   AuthenticationFailed: Token is missing the "aud" claim
#   with caching enabled           accepted, 1 fetch for three ID tokens
#
# Machine clients only have access tokens, so they cannot use this class as it is: a subclass has to
# compare `client_id` instead.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install django-cognito-jwt==0.0.4 Django==5.2.19 djangorestframework==3.18.3 joserfc==1.8.0 requests cryptography
cat >"$dir/run.py" <<'PY'
import http.server, json, threading, time
from django.conf import settings
pool, client = "eu-west-1_Example12", "1example23456789"
settings.configure(COGNITO_AWS_REGION="eu-west-1", COGNITO_USER_POOL=pool, COGNITO_AUDIENCE=client, INSTALLED_APPS=[],
                   CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}})
import django; django.setup()
from django.test import RequestFactory
from django_cognito_jwt import backend, validator
from joserfc import jwk, jwt
from rest_framework.exceptions import AuthenticationFailed

key, fetches = jwk.RSAKey.generate_key(2048, {"kid": "example-key", "use": "sig", "alg": "RS256"}), 0

class Keys(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global fetches
        fetches += 1
        self.send_response(200); self.send_header("cache-control", "public, max-age=86400"); self.end_headers()
        self.wfile.write(json.dumps({"keys": [key.as_dict(private=False)]}).encode())
    def log_message(self, *_): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
threading.Thread(target=server.serve_forever, daemon=True).start()
# The only change: the pool is on loopback instead of amazonaws.com.
validator.TokenValidator.pool_url = issuer = f"http://127.0.0.1:{server.server_port}/{pool}"

class Authentication(backend.JSONWebTokenAuthentication):
    def get_user_model(self):
        class Users:
            class objects: get_or_create_for_cognito = staticmethod(lambda claims: claims)
        return Users

def token(**claims):
    now = int(time.time())
    return jwt.encode({"kid": "example-key", "alg": "RS256"}, {"sub": client, "iss": issuer, "iat": now, "exp": now + 3600} | claims, key)

def authenticate(text):
    request = RequestFactory().get("/", headers={"authorization": "Bearer " + text})
    try: result = Authentication().authenticate(request)[0]["token_use"]
    except AuthenticationFailed as error: result = str(error.__context__)
    print(result, "| fetches", fetches)
    return result, fetches

ident, access = token(token_use="id", aud=client), token(token_use="access", client_id=client, scope="shop/read")
for count in (1, 2, 3): assert authenticate(ident) == ("id", count)
assert authenticate(access) == ('Token is missing the "aud" claim', 4)
settings.COGNITO_PUBLIC_KEYS_CACHING_ENABLED = True
for _ in range(3): assert authenticate(ident) == ("id", 5)
PY
"$dir/venv/bin/python" -W ignore "$dir/run.py"
