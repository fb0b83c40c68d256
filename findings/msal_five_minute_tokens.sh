#!/usr/bin/env bash
# Packages: msal 1.39.0 (PyPI) and @azure/msal-node 7.2.3 (npm), with a Cognito user pool as the
# issuer: `oidc_authority`, or `protocolMode: 'OIDC'`. Both accept any issuer there, not only Entra ID.
#
# Both libraries treat a cached token as expired five minutes before its time. Entra ID issues tokens
# for at least 10 minutes. The shortest lifetime that Cognito allows is exactly five minutes, and with
# that lifetime the cache has no effect: each call requests another token. Neither library documents a
# setting for the five minutes.
#
# Expected: one token request for four calls, with both lifetimes.
# Seen (four calls for the same scope, 1.5 seconds apart):
#   msal       AccessTokenValidity 60 minutes, expires_in 3600   1 token request
#   msal       AccessTokenValidity 5 minutes,  expires_in 300    4 token requests
#   msal-node  60 minutes                                        1 token request
#   msal-node  5 minutes                                         4 token requests
#
# AWS bills each client credentials token and limits the rate of token requests. Use a lifetime well
# above five minutes with these clients. The only change here: the library's HTTP client is replaced
# by one that answers as the pool does, because both libraries require https.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install msal==1.39.0
npm install --silent --no-fund --no-audit --prefix "$dir" @azure/msal-node@7.2.3
cat >"$dir/run.py" <<'PY'
import json, time, types
import msal

issuer, domain = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Example12", "https://example.auth.eu-west-1.amazoncognito.com"
class Pool:
    def __init__(self, lifetime): self.lifetime, self.requests = lifetime, 0
    def reply(self, value):
        return types.SimpleNamespace(status_code=200, headers={}, text=json.dumps(value), raise_for_status=lambda: None)
    def get(self, url, **_):
        assert url == issuer + "/.well-known/openid-configuration"
        return self.reply({"issuer": issuer, "authorization_endpoint": domain + "/oauth2/authorize", "token_endpoint": domain + "/oauth2/token",
                           "jwks_uri": issuer + "/.well-known/jwks.json"})
    def post(self, url, data=None, **_):
        assert url == domain + "/oauth2/token" and data["grant_type"] == "client_credentials" and data["scope"] == "shop/read"
        self.requests += 1
        return self.reply({"access_token": f"example-{self.requests}", "token_type": "Bearer", "expires_in": self.lifetime})
    def close(self): pass

for lifetime, count in (3600, 1), (300, 4):
    pool = Pool(lifetime)
    app = msal.ConfidentialClientApplication("1example23456789", client_credential="notarealsecret0123456789", oidc_authority=issuer, http_client=pool)
    for _ in range(4):
        assert "access_token" in app.acquire_token_for_client(["shop/read"]); time.sleep(1.5)
    print("msal | expires_in", lifetime, "| token requests", pool.requests)
    assert pool.requests == count
PY
cat >"$dir/run.mjs" <<'JS'
import assert from 'node:assert'
import { ConfidentialClientApplication } from '@azure/msal-node'

const issuer = 'https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Example12', domain = 'https://example.auth.eu-west-1.amazoncognito.com'
const discovery = { issuer, authorization_endpoint: domain + '/oauth2/authorize', token_endpoint: domain + '/oauth2/token', jwks_uri: issuer + '/.well-known/jwks.json' }
for (const [lifetime, count] of [[3600, 1], [300, 4]]) {
  let requests = 0
  const networkClient = {
    sendGetRequestAsync: async () => ({ status: 200, headers: {}, body: discovery }),
    sendPostRequestAsync: async () => ({ status: 200, headers: {}, body: { access_token: 'example-' + ++requests, token_type: 'Bearer', expires_in: lifetime } })
  }
  const auth = { clientId: '1example23456789', clientSecret: 'notarealsecret0123456789', authority: issuer, knownAuthorities: [new URL(issuer).host] }
  const app = new ConfidentialClientApplication({ auth, system: { networkClient, protocolMode: 'OIDC' } })
  for (let call = 0; call < 4; call++) {
    assert((await app.acquireTokenByClientCredential({ scopes: ['shop/read'] })).accessToken)
    await new Promise((done) => setTimeout(done, 1500))
  }
  console.log('msal-node | expires_in', lifetime, '| token requests', requests)
  assert.equal(requests, count)
}
JS
"$dir/venv/bin/python" "$dir/run.py"
node "$dir/run.mjs"
