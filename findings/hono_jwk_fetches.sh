#!/usr/bin/env bash
# Package: hono 4.13.19 (npm), its built-in middleware `hono/jwk`; tokens made with jose 6.2.18.
#
# With `jwks_uri`, the middleware fetches the JWK Set for every request that has a token. Nothing is
# cached, neither in the process nor by the document's Cache-Control header. If the endpoint cannot
# be reached, a valid token is answered with 401 `invalid_token`, like a forged one; if the endpoint
# answers with an error status, the same token is answered with 500.
#
# Expected: one fetch for five requests, and 500 or 503 in both kinds of outage.
# Seen (the document has Cache-Control: public, max-age=86400):
#   five requests with a valid token     200 each, 5 fetches
#   an unknown key ID                    401 invalid_token, 1 more fetch
#   the endpoint answers 500             500 Internal Server Error
#   the endpoint is closed               401 error="invalid_token" for a valid token
#
# A client that follows RFC 6750 throws its token away and gets another one during each outage, which
# does not help. Give `keys` a function that caches, or use jose's createRemoteJWKSet.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --silent --no-fund --no-audit --prefix "$dir" hono@4.13.19 jose@6.2.18
cat >"$dir/run.mjs" <<'JS'
import assert from 'node:assert'
import http from 'node:http'
import { Hono } from 'hono'
import { jwk } from 'hono/jwk'
import * as jose from 'jose'

const issuer = 'https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Example12'
const pair = await jose.generateKeyPair('RS256')
const key = { ...(await jose.exportJWK(pair.publicKey)), kid: 'example-key', use: 'sig', alg: 'RS256' }
let fetches = 0, status = 200
const server = http.createServer((_, response) => {
  fetches++
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'public, max-age=86400' })
  response.end(JSON.stringify({ keys: [key] }))
})
await new Promise((done) => server.listen(0, '127.0.0.1', done))

const app = new Hono()
app.use(jwk({ jwks_uri: `http://127.0.0.1:${server.address().port}/jwks.json`, alg: ['RS256'], realm: 'api' }))
app.onError((error, context) => error.getResponse ? error.getResponse() : context.text('error', 500))
app.get('/', (context) => context.text(context.get('jwtPayload').client_id))

const token = (kid) => new jose.SignJWT({ client_id: '1example23456789', token_use: 'access', scope: 'shop/read' })
  .setProtectedHeader({ alg: 'RS256', kid }).setIssuer(issuer).setSubject('1example23456789')
  .setIssuedAt().setExpirationTime('1h').sign(pair.privateKey)
async function get (text) {
  const response = await app.request('/', { headers: { authorization: 'Bearer ' + text } })
  const challenge = response.headers.get('www-authenticate') ?? ''
  console.log(response.status, challenge, 'fetches', fetches)
  return [response.status, challenge.includes('error="invalid_token"'), fetches]
}

const valid = await token('example-key')
for (let request = 1; request <= 5; request++) assert.deepEqual(await get(valid), [200, false, request])
assert.deepEqual(await get(await token('another-key')), [401, true, 6])
status = 500
assert.deepEqual(await get(valid), [500, false, 7])
await new Promise((done) => { server.close(done); server.closeAllConnections() })
assert.deepEqual(await get(valid), [401, true, 7])
JS
node "$dir/run.mjs"
