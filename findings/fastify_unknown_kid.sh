#!/usr/bin/env bash
# Package: fastify-jwt-jwks 3.1.2 (npm) with fastify 5.12.8.
#
# If a token names a key that the JWK Set does not have yet, the plugin remembers that the key is
# missing, for as long as it caches keys: a week by default (`secretsTtl`, 604,800,000 ms). Once the
# endpoint publishes the key, valid tokens of that key still get 401 and nothing is fetched. An
# instance that has not seen such a token before accepts the same token at once.
#
# Expected: another fetch for the next token, perhaps after a short pause.
# Seen (state of the JWK Set, answer, fetches so far):
#   old key only   valid token of the new key  401 "Missing Key: Public key must be provided"  1
#   both keys      the same token              401 the same                                    1
#   both keys      the same token 3 s later    401 the same                                    1
#   both keys      token of the old key        200                                             2
#   both keys      new key, second instance    200                                             3
#   secretsTtl 1 s: new key 401, then 200 after 2 s                                            5
#
# During a key rotation, a token can arrive before the key: a cache in front of the JWK Set or a
# replica that lags by a second is enough. Some replicas of a service then reject all new tokens for
# a week while others accept them, until they are restarted. Set `secretsTtl` to minutes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --silent --no-fund --no-audit --prefix "$dir" fastify-jwt-jwks@3.1.2 fastify@5.12.8
cat >"$dir/run.mjs" <<'JS'
import assert from 'node:assert'
import crypto from 'node:crypto'
import http from 'node:http'
import fastify from 'fastify'
import plugin from 'fastify-jwt-jwks'

const client = '1example23456789'
const pair = () => crypto.generateKeyPairSync('rsa', { modulusLength: 2048 })
const [oldPair, newPair] = [pair(), pair()]
const jwk = (p, kid) => ({ ...p.publicKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256' })
let keys, fetches = 0
const server = http.createServer((_, response) => { fetches++; response.end(JSON.stringify({ keys })) })
await new Promise((done) => server.listen(0, '127.0.0.1', done))
const jwksUrl = `http://127.0.0.1:${server.address().port}/jwks.json`
const issuer = 'https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Example12'

function token (p, kid) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const now = Math.floor(Date.now() / 1000)
  const text = part({ kid, alg: 'RS256' }) + '.' + part({
    sub: client, token_use: 'access', scope: 'shop/read', auth_time: now, iss: issuer, exp: now + 3600, iat: now, version: 2, jti: 'example', client_id: client
  })
  return text + '.' + crypto.sign('sha256', Buffer.from(text), p.privateKey).toString('base64url')
}
async function service (options) {
  const app = fastify()
  await app.register(plugin, { jwksUrl, issuer, ...options })
  app.get('/', { preValidation: app.authenticate }, (request) => ({ client: request.user.client_id }))
  return async (text) => {
    const answer = await app.inject({ url: '/', headers: { authorization: 'Bearer ' + text } })
    console.log(answer.statusCode, answer.body, 'fetches', fetches)
    return [answer.statusCode, fetches]
  }
}
const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000))
const [ofOld, ofNew] = [token(oldPair, 'old'), token(newPair, 'new')]
const [before, after] = [[jwk(oldPair, 'old')], [jwk(oldPair, 'old'), jwk(newPair, 'new')]]

keys = before
const [first, second, short] = [await service({}), await service({}), await service({ secretsTtl: 1000 })]
assert.deepEqual(await first(ofNew), [401, 1])
keys = after
assert.deepEqual(await first(ofNew), [401, 1]); await wait(3)
assert.deepEqual(await first(ofNew), [401, 1])
assert.deepEqual(await first(ofOld), [200, 2])
assert.deepEqual(await second(ofNew), [200, 3])
keys = before
assert.deepEqual(await short(ofNew), [401, 4])
keys = after; await wait(2)
assert.deepEqual(await short(ofNew), [200, 5])
process.exit(0)
JS
node "$dir/run.mjs"
