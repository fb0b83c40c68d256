#!/usr/bin/env bash
# Packages: @aws-lambda-powertools/parser 2.35.0 (npm) with zod 4.6.7, and aws-lambda-powertools 3.37.0
# (PyPI) with its extra `parser`.
#
# A Lambda authorizer tells the API behind it who calls by means of its `context`. API Gateway puts
# these values into requestContext.authorizer. The parser's model for REST APIs silently drops all of
# them; the model for HTTP APIs keeps them. The Python model also drops principalId. Parsing reports
# no error, so the handler sees a request whose caller has no tenant and no scopes.
#
# Expected: the values of the context are in the parsed event, for both kinds of API.
# Seen (context client_id, scope, tenant; authorizer in the parsed event):
#   TypeScript  REST API  {"integrationLatency":12,"principalId":"1example23456789"}
#   TypeScript  HTTP API  {"lambda":{"client_id":"1example23456789","scope":"shop/read","tenant":"t1"}}
#   Python      REST API  {"claims": null, "scopes": null}
#   Python      HTTP API  {"lambda_value": {"client_id": ..., "scope": "shop/read", "tenant": "t1"}}
#
# With the decorator or the middleware of the package, the handler gets only the parsed event. Extend
# the model, or read these values from the raw event.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q install 'aws-lambda-powertools[parser]==3.37.0'
npm install --silent --no-fund --no-audit --prefix "$dir" @aws-lambda-powertools/parser@2.35.0 zod@4.6.7
cat >"$dir/events.json" <<'JSON'
{"rest": {"resource": "/orders", "path": "/orders", "httpMethod": "GET", "headers": {"Authorization": "Bearer example"},
  "multiValueHeaders": {"Authorization": ["Bearer example"]}, "queryStringParameters": null, "multiValueQueryStringParameters": null,
  "pathParameters": null, "stageVariables": null, "body": null, "isBase64Encoded": false,
  "requestContext": {"accountId": "123456789012", "apiId": "example", "stage": "prod", "protocol": "HTTP/1.1", "requestId": "example",
    "requestTime": "04/Mar/2026:19:15:17 +0000", "requestTimeEpoch": 1772651717000, "resourceId": "example", "resourcePath": "/orders",
    "httpMethod": "GET", "path": "/prod/orders", "identity": {"sourceIp": "192.0.2.1", "userAgent": "example"},
    "authorizer": {"principalId": "1example23456789", "integrationLatency": 12, "client_id": "1example23456789", "scope": "shop/read", "tenant": "t1"}}},
 "http": {"version": "2.0", "routeKey": "GET /orders", "rawPath": "/orders", "rawQueryString": "", "headers": {"authorization": "Bearer example"},
  "isBase64Encoded": false,
  "requestContext": {"accountId": "123456789012", "apiId": "example", "domainName": "example.execute-api.eu-west-1.amazonaws.com",
    "domainPrefix": "example", "requestId": "example", "routeKey": "GET /orders", "stage": "$default", "time": "04/Mar/2026:19:15:17 +0000",
    "timeEpoch": 1772651717000, "http": {"method": "GET", "path": "/orders", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "example"},
    "authorizer": {"lambda": {"client_id": "1example23456789", "scope": "shop/read", "tenant": "t1"}}}}}
JSON
cat >"$dir/run.mjs" <<'JS'
import assert from 'node:assert'
import fs from 'node:fs'
import { APIGatewayProxyEventSchema, APIGatewayProxyEventV2Schema } from '@aws-lambda-powertools/parser/schemas'

const events = JSON.parse(fs.readFileSync(new URL('events.json', import.meta.url)))
const rest = APIGatewayProxyEventSchema.parse(events.rest).requestContext.authorizer
const http = APIGatewayProxyEventV2Schema.parse(events.http).requestContext.authorizer
console.log('TypeScript', 'REST API', JSON.stringify(rest), '\nTypeScript', 'HTTP API', JSON.stringify(http))
assert.deepEqual(rest, { integrationLatency: 12, principalId: '1example23456789' })
assert.deepEqual(http, { lambda: { client_id: '1example23456789', scope: 'shop/read', tenant: 't1' } })
JS
cat >"$dir/run.py" <<'PY'
import json, sys
from aws_lambda_powertools.utilities.parser import parse
from aws_lambda_powertools.utilities.parser.models import APIGatewayProxyEventModel, APIGatewayProxyEventV2Model

events = json.load(open(sys.argv[1]))
rest = parse(event=events["rest"], model=APIGatewayProxyEventModel).requestContext.authorizer.model_dump()
http = parse(event=events["http"], model=APIGatewayProxyEventV2Model).requestContext.authorizer.model_dump(exclude_none=True)
print("Python REST API", json.dumps(rest), "\nPython HTTP API", json.dumps(http))
assert rest == {"claims": None, "scopes": None}
assert http == {"lambda_value": {"client_id": "1example23456789", "scope": "shop/read", "tenant": "t1"}}
PY
node "$dir/run.mjs"
"$dir/venv/bin/python" "$dir/run.py" "$dir/events.json"
