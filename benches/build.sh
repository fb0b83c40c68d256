#!/usr/bin/env bash
# Measures the build of this crate and of others: the number of crates, and the processor time of a
# clean release build.
#
#     benches/build.sh [NAME…]          # all by default
#     benches/build.sh --crates         # only the number of crates, of this crate
#     benches/build.sh … --json FILE    # also adds the results to this file
#
# RUNS  how often each is built, in turns, default 1
#
# It measures processor time, because other work on the machine would lengthen the elapsed time.
# Each crate is built in an empty folder below target/, with the features that a service on axum
# enables and the newest versions of its dependencies. `--crates` uses the versions in Cargo.lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. benches/packages.sh

here=$PWD
work=$target/build-cost
names=(tower-cognito 'tower-cognito without reqwest')
declare -A dependency=(
    [tower-cognito]="tower-cognito = { path = \"$here\", features = [\"axum\"] }"
    ['tower-cognito without reqwest']="tower-cognito = { path = \"$here\", default-features = false, features = [\"axum\"] }"
    [oauth-resource-server]='oauth-resource-server = { version = "0.4", features = ["axum"] }'
    [tower-oauth2-resource-server]='tower-oauth2-resource-server = "0.12"'
    [jwt-authorizer]='jwt-authorizer = "0.15"'
    [jwt-verify]='jwt-verify = "0.1"'
    [axum-jwt-auth]='axum-jwt-auth = "0.7"'
)
kind=build
chosen=()
json=()
while (($#)); do
    case $1 in
    --crates)
        kind=crates
        chosen=("${names[@]}")
        ;;
    --json)
        json=("$@")
        json=("${json[@]:0:2}")
        shift
        ;;
    *) chosen+=("$1") ;;
    esac
    shift
done
if ((${#chosen[@]} == 0)); then
    chosen=("${names[@]}" tower-oauth2-resource-server oauth-resource-server jwt-authorizer jwt-verify
        axum-jwt-auth)
fi

# build NAME: prints a line for benches/rows.py.
build() {
    local crates spent=()
    rm -rf "$work"
    mkdir -p "$work/src"
    [[ $kind == build ]] || cp Cargo.lock "$work/"
    : >"$work/src/lib.rs"
    printf '[workspace]\n[package]\nname = "costs"\nedition = "2024"\n[dependencies]\n%s\n' \
        "${dependency[$1]}" >"$work/Cargo.toml"
    # `crates` counts the crate itself and the empty one here, too.
    crates=$(cargo tree --quiet --edges normal,build --prefix none --no-dedupe \
        --manifest-path "$work/Cargo.toml" | sed 's/ (.*//' | sort --unique | wc --lines)
    if [[ $kind == build ]]; then
        cargo fetch --quiet --manifest-path "$work/Cargo.toml"
        local TIMEFORMAT='%U %S'
        spent=($({ time cargo build --quiet --offline --release --manifest-path "$work/Cargo.toml" \
            --target-dir "$work/target" >"$target/build-cost.log" 2>&1; } 2>&1))
        [[ -d $work/target/release ]] || {
            cat "$target/build-cost.log" >&2
            exit 1
        }
        printf '%s\t%d\t%s\n' "$1" $((crates - 2)) "$(awk '{ print $1 + $2 }' <<<"${spent[*]}")"
    else
        printf '%s\t%d\n' "$1" $((crates - 2))
    fi
}

for ((run = 0; run < ${RUNS:-1}; run++)); do
    for name in "${chosen[@]}"; do
        build "$name"
    done
done | benches/rows.py "$kind" "${json[@]}"
rm -rf "$work"
