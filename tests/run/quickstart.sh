#!/usr/bin/env bash
# Uses the quickstart as its user would, with curl and Python, and checks every answer.
#
#     tests/run/quickstart.sh
#
# QUICKSTART_BIN   a built quickstart, default `cargo run --example quickstart`
# PYTHON           a Python with requests, PyJWT and cryptography, default `python3`
#
# Every check prints one line, `ok - …` or `FAIL - …`; the last line counts them. Exits 1 if any
# failed. Needs bash 4.4, curl and the usual GNU tools.
# ci: merge computes: the lines with FAIL say what was expected and what came
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
python=${PYTHON:-python3}

# Everything runs on this machine. Settings of the caller's shell must not affect the checks.
export NO_PROXY='*' no_proxy='*' CARGO_TERM_COLOR=never PYTHONDONTWRITEBYTECODE=1
unset COGNITO_USER_POOL_ID COGNITO_CLIENT_IDS COGNITO_ISSUER COGNITO_JWKS_URL
unset QUICKSTART_API QUICKSTART_ISSUER RUST_LOG

if ! command -v curl >/dev/null; then
    echo "curl is missing: apt-get install curl" >&2
    exit 1
fi
if ! "$python" -c 'import cryptography, jwt, requests' 2>/dev/null; then
    {
        echo "$python cannot import requests, jwt and cryptography. One of these helps:"
        echo "    apt-get install python3-requests python3-jwt python3-cryptography"
        echo "    python3 -m venv DIRECTORY && DIRECTORY/bin/pip install requests 'pyjwt[crypto]'"
        echo "and PYTHON=DIRECTORY/bin/python names the interpreter."
    } >&2
    exit 1
fi

work=$(mktemp -d)
pids=()
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
    exec 2>/dev/null # bash would report every killed process
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" || true
    done
    wait
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- Checks ------------------------------------------------------------------------------------

passed=0
failed=0

ok() {
    passed=$((passed + 1))
    echo "ok - $1"
}

# fail WHAT [LINE…]: the other lines show the actual result.
fail() {
    failed=$((failed + 1))
    echo "FAIL - $1"
    shift
    if (($#)); then
        printf '%s\n' "$@" | sed 's/^/    /'
    fi
}

finish() {
    echo
    echo "$passed passed, $failed failed"
    if ((failed)); then
        exit 1
    fi
    exit 0
}

# equal WHAT EXPECTED ACTUAL
equal() {
    if [[ $3 == "$2" ]]; then
        ok "$1"
    else
        fail "$1" "expected: $2" "actual:   $3"
    fi
}

# contains WHAT TEXT PART…
contains() {
    local what=$1 text=$2 part
    shift 2
    for part in "$@"; do
        if [[ $text != *"$part"* ]]; then
            fail "$what" "expected: …$part…" "actual:   $text"
            return
        fi
    done
    ok "$what"
}

# ---- Processes ---------------------------------------------------------------------------------

if [[ -n ${QUICKSTART_BIN:-} ]]; then
    quickstart=("$QUICKSTART_BIN")
else
    cargo build --quiet --example quickstart
    quickstart=(cargo run --quiet --example quickstart)
fi

# Bash starts background processes with SIGINT ignored; a terminal does not.
reset_sigint='import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])'

# start NAME [VARIABLE=VALUE…]: sets `pid`; the output is in NAME.out and NAME.err.
start() {
    local name=$1
    shift
    : >"$work/$name.out"
    env "$@" "$python" -c "$reset_sigint" "${quickstart[@]}" \
        >"$work/$name.out" 2>"$work/$name.err" </dev/null &
    pid=$!
    pids+=("$pid")
}

# wait_for_line NAME PID PATTERN: waits for a line of the output, for at most 120 s and while the
# process runs. The script exits without it.
wait_for_line() {
    local deadline=$((SECONDS + 120)) problem=
    until grep -qE "$3" "$work/$1.out"; do
        if ! kill -0 "$2" 2>/dev/null; then
            problem='it ended before that'
        elif ((SECONDS >= deadline)); then
            problem='it did not within 120 s'
        fi
        if [[ -n $problem ]]; then
            fail "the $1 process prints $3" "$problem" "$(<"$work/$1.out")" "$(<"$work/$1.err")"
            finish
        fi
        sleep 0.1
    done
}

# value NAME VARIABLE: prints VALUE of the line VARIABLE=VALUE in the output.
value() {
    sed -n "s/^$2=//p" "$work/$1.out"
}

# ends WHAT PID SIGNAL: checks that the process exits with code 0 within 10 s.
ends() {
    local tries=100 code=0 left=()
    kill "-$3" "$2"
    while kill -0 "$2" 2>/dev/null; do
        if ((--tries == 0)); then
            fail "$1" "expected: an end" "actual:   it still runs after 10 s"
            return
        fi
        sleep 0.1
    done
    wait "$2" || code=$?
    # Another process can get this PID from now on.
    for pid in "${pids[@]}"; do
        if [[ $pid != "$2" ]]; then
            left+=("$pid")
        fi
    done
    pids=("${left[@]}")
    equal "$1" "exit code 0" "exit code $code"
}

# fails_to_start WHAT [VARIABLE=VALUE…] -- PART…: checks that it exits with code 1 within 15 s, and
# that its error contains every part.
fails_to_start() {
    local what=$1 settings=() code=0
    shift
    while [[ $1 != -- ]]; do
        settings+=("$1")
        shift
    done
    shift
    timeout --kill-after=5 15 env QUICKSTART_API=127.0.0.1:0 QUICKSTART_ISSUER=127.0.0.1:0 \
        "${settings[@]}" "${quickstart[@]}" >"$work/rejects.out" 2>"$work/rejects.err" </dev/null ||
        code=$?
    if ((code == 1)); then
        contains "$what" "$(<"$work/rejects.err")" "$@"
    else
        fail "$what" "expected: exit code 1" "actual:   exit code $code" "$(<"$work/rejects.err")"
    fi
}

# ---- Requests ----------------------------------------------------------------------------------

# request CURL-ARGUMENT…: puts the answer into $status, $work/headers and $work/body.
request() {
    : >"$work/headers"
    : >"$work/body"
    status=$(curl --silent --show-error --max-time 20 --noproxy '*' --dump-header "$work/headers" \
        --output "$work/body" --write-out '%{http_code}' "$@") || status="curl exit code $?"
}

# header NAME: prints its values, one on each line.
header() {
    tr -d '\r' <"$work/headers" | sed -n "s/^$1: //Ip"
}

# token CURL-ARGUMENT…: sends a request to the token endpoint as the registered client.
token() {
    request --url "$TOKEN_ENDPOINT_URL" --user "$CLIENT_ID:$CLIENT_SECRET" \
        --header 'Content-Type: application/x-www-form-urlencoded' "$@"
}

# json EXPRESSION: evaluates an expression; `it` is the JSON body of the last answer.
json() {
    "$python" -c 'import json, sys
it = json.load(open(sys.argv[1], encoding="utf-8"))
print(eval(sys.argv[2]))' "$work/body" "$1" 2>&1 || true
}

# claim TOKEN NAME: prints a claim of the payload without verification.
claim() {
    "$python" -c 'import base64, json, sys
payload = sys.argv[1].split(".")[1]
print(json.loads(base64.urlsafe_b64decode(payload + "=="))[sys.argv[2]])' "$1" "$2" 2>&1 || true
}

# rejected WHAT STATUS CHALLENGE CURL-ARGUMENT…
rejected() {
    local what=$1 expected_status=$2 challenge=$3 code description
    shift 3
    request "$@"
    # The body contains the error of the challenge, if the challenge has one.
    code=$(sed -nE 's/.* error="([^"]*)".*/\1/p' <<<"$challenge")
    description=$(sed -nE 's/.* error_description="([^"]*)".*/\1/p' <<<"$challenge")
    local expected="status: $expected_status
www-authenticate: $challenge
cache-control: no-store
content-type: application/json
error: ${code:-unauthorized}
error_description: ${description:-A bearer access token is required}"
    local actual
    actual="status: $status
www-authenticate: $(header www-authenticate)
cache-control: $(header cache-control)
content-type: $(header content-type)
error: $(json 'it["error"]')
error_description: $(json 'it["error_description"]')"
    equal "$what" "$expected" "$actual"
}

# token_error WHAT ERROR CURL-ARGUMENT…: checks the error of the token endpoint.
token_error() {
    local what=$1 error=$2
    shift 2
    request --url "$TOKEN_ENDPOINT_URL" "$@"
    equal "$what" "400 application/json {'error': '$error'}" \
        "$status $(header content-type) $(json it)"
}

# raw_head URL: prints the raw answer to HEAD up to the end of the connection, because curl would
# ignore a body.
raw_head() {
    local address=${1#http://} socket
    local path=/${address#*/}
    address=${address%%/*}
    exec {socket}<>"/dev/tcp/${address%:*}/${address##*:}"
    printf 'HEAD %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$path" "$address" >&"$socket"
    timeout 20 cat <&"$socket"
    exec {socket}>&-
}

# ---- It starts ---------------------------------------------------------------------------------

start first QUICKSTART_API=127.0.0.1:0 QUICKSTART_ISSUER=127.0.0.1:0
first=$pid
wait_for_line first "$first" '^ready$'

names='CLIENT_ID CLIENT_SECRET TOKEN_ENDPOINT_URL API_URL ACTIVITY_URL EXPIRED_TOKEN ID_TOKEN OTHER_CLIENT_TOKEN'
equal 'the values come first, in their order, and then ready' "$names ready" \
    "$(sed '/^ready$/q; s/=..*//' "$work/first.out" | paste -sd ' ' -)"
for name in $names; do
    export "$name=$(value first "$name")"
done

# ---- A client gets a token and is served ---------------------------------------------------------

token --data-urlencode 'grant_type=client_credentials'
equal 'the token endpoint answers a client' \
    "200 application/json ['access_token', 'expires_in', 'token_type'] 3600 Bearer" \
    "$status $(header content-type) $(json 'sorted(it)') $(json 'it["expires_in"]') $(json 'it["token_type"]')"
ACCESS_TOKEN=$(json 'it["access_token"]')
equal 'without a scope the token has all of the client' 'activity/* activity/read demo-dev/read' \
    "$(claim "$ACCESS_TOKEN" scope)"
with_token=(--header "Authorization: Bearer $ACCESS_TOKEN")

token --data-urlencode 'grant_type=client_credentials' --data-urlencode 'scope=activity/read'
NARROW_TOKEN=$(json 'it["access_token"]')
equal 'with a scope the token has that one' 'activity/read' "$(claim "$NARROW_TOKEN" scope)"

event='{"message":"Hello"}'
request --url "$ACTIVITY_URL" "${with_token[@]}" --data "$event"
equal 'an event comes back' "200 $event." "$status $(cat "$work/body" && echo .)"
contains 'the event is in the log, with its client' "$(<"$work/first.err")" \
    "client=\"$CLIENT_ID\"" 'event="{\"message\":\"Hello\"}"'

"$python" -c 'import os; os.write(1, os.urandom(100_000))' >"$work/random"
request --url "$ACTIVITY_URL" "${with_token[@]}" --header 'Content-Type: application/octet-stream' \
    --data-binary "@$work/random"
equal '100 KB of random bytes come back' "200 $(sha256sum <"$work/random")" \
    "$status $(sha256sum <"$work/body")"

equal 'the Python client gets the items' "[{'test': 'hoge'}]" \
    "$("$python" "$here/client.py" 2>&1 || true)"
equal 'PyJWT verifies the tokens too' 'PyJWT is of the same opinion' \
    "$("$python" "$here/pyjwt_check.py" 2>&1 || true)"

# ---- Other requests are rejected --------------------------------------------------------------------------

realm='Bearer realm="api"'
malformed="$realm, error=\"invalid_request\", error_description=\"The Authorization header is malformed\""
expired="$realm, error=\"invalid_token\", error_description=\"The access token expired\""
invalid="$realm, error=\"invalid_token\", error_description=\"The access token is invalid\""
scope="$realm, error=\"insufficient_scope\", error_description=\"A required scope is missing\", scope=\"activity/*\""

rejected 'no token' 401 "$realm" --url "$API_URL"
cp "$work/headers" "$work/get-headers"
rejected 'no token, with an event' 401 "$realm" --url "$ACTIVITY_URL" --data "$event"
rejected 'the Basic scheme' 401 "$realm" --url "$API_URL" --user "$CLIENT_ID:$CLIENT_SECRET"
rejected 'no token, on an unknown path' 401 "$realm" --url "${API_URL%/item}/unknown"
rejected 'a token in the query' 401 "$realm" --url "$API_URL?access_token=$ACCESS_TOKEN"
rejected 'Bearer without a token' 400 "$malformed" --url "$API_URL" --header 'Authorization: Bearer'
rejected 'two Authorization headers' 400 "$malformed" --url "$API_URL" "${with_token[@]}" "${with_token[@]}"
rejected 'an expired token' 401 "$expired" --url "$API_URL" --header "Authorization: Bearer $EXPIRED_TOKEN"
rejected 'a garbage token' 401 "$invalid" --url "$API_URL" --header 'Authorization: Bearer garbage'
rejected 'an ID token' 401 "$invalid" --url "$API_URL" --header "Authorization: Bearer $ID_TOKEN"
rejected "another client's token" 401 "$invalid" --url "$API_URL" --header "Authorization: Bearer $OTHER_CLIENT_TOKEN"
rejected 'a token without the scope' 403 "$scope" --url "$ACTIVITY_URL" --data "$event" \
    --header "Authorization: Bearer $NARROW_TOKEN"

# Without `date`, and without `connection`, which the request itself requires.
plain_headers() {
    tr -d '\r' | grep -viE '^(date|connection):' | sed '/^$/d'
}
raw_head "$API_URL" >"$work/head" || true
equal 'HEAD without a token: the headers of GET' "$(plain_headers <"$work/get-headers")" \
    "$(sed $'/^\r$/q' "$work/head" | plain_headers)"
equal 'HEAD without a token: no body' 0 "$(sed $'1,/^\r$/d' "$work/head" | wc -c | tr -d ' ')"

request --url "${API_URL%/item}/unknown" "${with_token[@]}"
equal 'with a token, an unknown path is not found' 404 "$status"

# ---- The token endpoint rejects ------------------------------------------------------------------

basic=(--user "$CLIENT_ID:$CLIENT_SECRET")
grant=(--data-urlencode 'grant_type=client_credentials')
token_error 'a wrong secret' invalid_client --user "$CLIENT_ID:wrong" "${grant[@]}"
token_error 'an unknown client' invalid_client --user "unknown:$CLIENT_SECRET" "${grant[@]}"
token_error 'no grant type' invalid_request "${basic[@]}" --data-urlencode 'scope=activity/read'
token_error 'another grant type' unsupported_grant_type "${basic[@]}" --data-urlencode 'grant_type=password'
token_error 'an unknown scope' invalid_scope "${basic[@]}" "${grant[@]}" --data-urlencode 'scope=nope/nope'
token_error 'a repeated parameter' invalid_request "${basic[@]}" "${grant[@]}" "${grant[@]}"

# ---- A wrong setting is named --------------------------------------------------------------------

origin=${TOKEN_ENDPOINT_URL%/oauth2/token}
issuer=$origin/us-east-1_TestIssuer
taken=${origin#http://}
pool=us-east-1_TestIssuer

fails_to_start 'the port of the API is taken' QUICKSTART_API="$taken" -- QUICKSTART_API "$taken"
fails_to_start 'the port of the issuer is taken' QUICKSTART_ISSUER="$taken" -- QUICKSTART_ISSUER "$taken"
fails_to_start 'a user pool without clients' COGNITO_USER_POOL_ID="$pool" -- COGNITO_CLIENT_IDS
fails_to_start 'clients without a user pool' COGNITO_CLIENT_IDS="$CLIENT_ID" -- COGNITO_USER_POOL_ID
fails_to_start 'a malformed user pool ID' COGNITO_USER_POOL_ID='us-east-1/TestIssuer' \
    COGNITO_CLIENT_IDS="$CLIENT_ID" -- COGNITO_USER_POOL_ID
fails_to_start 'a malformed list of clients' COGNITO_USER_POOL_ID="$pool" \
    COGNITO_CLIENT_IDS="$CLIENT_ID,,other" -- COGNITO_CLIENT_IDS
fails_to_start 'a malformed issuer' COGNITO_ISSUER='http://127.0.0.1@evil.example' \
    COGNITO_CLIENT_IDS="$CLIENT_ID" -- COGNITO_ISSUER
fails_to_start 'an issuer without that user pool' COGNITO_ISSUER="$origin/us-east-1_Another" \
    COGNITO_CLIENT_IDS="$CLIENT_ID" -- "$origin/us-east-1_Another/.well-known/jwks.json" 404

# ---- Another process trusts the first one's issuer -----------------------------------------------

start second QUICKSTART_API=127.0.0.1:0 COGNITO_ISSUER="$issuer" COGNITO_CLIENT_IDS="$CLIENT_ID"
second=$pid
wait_for_line second "$second" '^ACTIVITY_URL='
request --url "$(value second ACTIVITY_URL)" "${with_token[@]}" --data "$event"
equal "another process accepts the first one's tokens" "200 $event" "$status $(<"$work/body")"
rejected 'it rejects an expired token' 401 "$expired" --url "$(value second API_URL)" \
    --header "Authorization: Bearer $EXPIRED_TOKEN"

# ---- They end ------------------------------------------------------------------------------------

ends 'SIGINT ends it' "$second" INT
equal 'without an issuer of its own it printed nothing but its two URLs' 'API_URL ACTIVITY_URL' \
    "$(sed 's/=http:..*//' "$work/second.out" | paste -sd ' ' -)"
ends 'SIGTERM ends it' "$first" TERM

finish
