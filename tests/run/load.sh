#!/usr/bin/env bash
# Measures the cost of authorization for a server under load: wrk calls an axum server on this
# machine without authorization, with tower-cognito, and with two other crates.
#
#     tests/run/load.sh
#     tests/run/load.sh --json FILE
#
# ROUNDS       the number of rounds, default 3
# SECONDS_EACH how long each server is called in a round, default 3
# SERVER_BIN   the built program `server` of the package `benches`
#
# The servers take turns, and the best of all rounds counts. wrk runs on the same processors, which
# limits the requests per second; the processor time per request is only that of the server.
# Needs bash 4.4 and wrk; as root on Debian, it installs wrk if it is missing.
set -euo pipefail
shopt -s inherit_errexit

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/run/debian.sh
rounds=${ROUNDS:-3}
seconds=${SECONDS_EACH:-3}
json=
if [[ ${1:-} == --json ]]; then
    json=${2:?--json wants a file}
elif (($#)); then
    echo "usage: tests/run/load.sh [--json FILE]" >&2
    exit 2
fi

command -v wrk >/dev/null || debian_install wrk

server=${SERVER_BIN:-}
if [[ -z $server ]]; then
    cargo build --quiet --release -p benches --features neighbours --bin server
    server=${CARGO_TARGET_DIR:-target}/release/server
fi

# ---- The servers -------------------------------------------------------------------------------

modes=(none cache-on cache-off tower-oauth2-resource-server axum-jwt-auth)
declare -A title=(
    [none]='without authorization'
    [cache-on]='tower-cognito, cache on'
    [cache-off]='tower-cognito, cache off'
    [tower-oauth2-resource-server]='tower-oauth2-resource-server'
    [axum-jwt-auth]='axum-jwt-auth'
)
declare -A pids urls tokens

# shellcheck disable=SC2317 # the trap calls it
cleanup() {
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
    done
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for mode in "${modes[@]}"; do
    exec {out}< <(exec "$server" "$mode")
    pids[$mode]=$!
    # The server prints them when it is ready.
    if ! { read -r "urls[$mode]" && read -r "tokens[$mode]"; } <&"$out"; then
        echo "the server does not start: $server $mode" >&2
        exit 1
    fi
done

# ---- The calls ---------------------------------------------------------------------------------

ticks_per_second=$(getconf CLK_TCK)

# ticks PID: prints utime + stime, see proc(5). The name of the program, in parentheses, can contain
# any character.
ticks() {
    local stat fields
    stat=$(<"/proc/$1/stat")
    read -ra fields <<<"${stat##*) }"
    echo $((fields[11] + fields[12]))
}

# call MODE SECONDS: sets `per_second` and `microseconds`, the processor time of a request.
call() {
    local before after report requests
    before=$(ticks "${pids[$1]}")
    report=$(wrk --threads 1 --connections 16 --duration "${2}s" \
        --header "Authorization: Bearer ${tokens[$1]}" "${urls[$1]}")
    after=$(ticks "${pids[$1]}")
    requests=$(sed -nE 's/^ *([0-9]+) requests in .*/\1/p' <<<"$report")
    per_second=$(sed -nE 's/^Requests\/sec: *//p' <<<"$report")
    if [[ -z $per_second || ${requests:-0} == 0 || $report == *Non-2xx* ||
        $report == *"Socket errors"* ]]; then
        printf '%s\n' "${title[$1]}:" "$report" >&2
        exit 1
    fi
    microseconds=$(awk -v ticks=$((after - before)) -v hz="$ticks_per_second" -v n="$requests" \
        'BEGIN { printf "%.2f", ticks / hz / n * 1e6 }')
}

# first ORDER NUMBER…: prints the minimum for the order `-g`, the maximum for `-gr`.
first() {
    printf '%s\n' "${@:2}" | LC_ALL=C sort "$1" | sed -n 1p
}

declare -A most least
for mode in "${modes[@]}"; do
    call "$mode" 1 # to warm up
done
for ((round = 0; round < rounds; round++)); do
    for mode in "${modes[@]}"; do
        call "$mode" "$seconds"
        most[$mode]=$(first -gr "$per_second" "${most[$mode]:-0}")
        least[$mode]=$(first -g "$microseconds" "${least[$mode]:-$microseconds}")
    done
done

# ---- Results -----------------------------------------------------------------------------------

line='%-32s %12s %10s %18s %10s\n'
# shellcheck disable=SC2059 # the format is the same for all lines
printf "$line" "best of $rounds rounds of $seconds s" 'requests/s' 'to none' 'CPU us/request' added
rows=()
for mode in "${modes[@]}"; do
    read -r ratio added < <(awk -v most="${most[$mode]}" -v most_bare="${most[none]}" \
        -v least="${least[$mode]}" -v least_bare="${least[none]}" \
        'BEGIN { printf "%.3f %.2f\n", most / most_bare, least - least_bare }')
    # shellcheck disable=SC2059
    printf "$line" "${title[$mode]}" "${most[$mode]%.*}" "$ratio" "${least[$mode]}" "$added"
    members=("\"name\": \"${title[$mode]}\"" "\"requests_per_second\": ${most[$mode]}"
        "\"to_none\": $ratio" "\"cpu_us_per_request\": ${least[$mode]}" "\"cpu_us_added\": $added")
    rows+=("$(printf ', %s' "${members[@]}")")
done
separated=$(printf '  {%s},\n' "${rows[@]#, }")
results=${json:-$(mktemp)}
printf '[\n%s\n]\n' "${separated%,}" >"$results"
benches/rows.py load "$results"
[[ -n $json ]] || rm "$results"
