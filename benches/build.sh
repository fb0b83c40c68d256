#!/usr/bin/env bash
# Measures the build of this crate and of others: the number of crates, and the processor time of a
# clean release build.
#
#     benches/build.sh
#     benches/build.sh NAME…
#
# It measures processor time, because other work on the machine would lengthen the elapsed time.
# Each crate is built in an empty folder below target/, with the features that a service on axum
# enables.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

here=$PWD
work=$here/target/build-cost
declare -A dependency=(
    [tower-cognito]="{ path = \"$here\", features = [\"axum\"] }"
    [tower-cognito-without-reqwest]="{ path = \"$here\", package = \"tower-cognito\", default-features = false, features = [\"axum\"] }"
    [oauth-resource-server]='{ version = "0.4", features = ["axum"] }'
    [tower-oauth2-resource-server]='"0.12"'
    [jwt-authorizer]='"0.15"'
    [jwt-verify]='"0.1"'
    [axum-jwt-auth]='"0.7"'
)
chosen=("$@")
if ((${#chosen[@]} == 0)); then
    chosen=(tower-cognito tower-cognito-without-reqwest oauth-resource-server tower-oauth2-resource-server jwt-authorizer
        jwt-verify axum-jwt-auth)
fi

printf '%-30s %7s %10s\n' '' crates processor
for name in "${chosen[@]}"; do
    rm -rf "$work"
    mkdir -p "$work/src"
    : >"$work/src/lib.rs"
    printf '[workspace]\n[package]\nname = "costs"\nedition = "2024"\n[dependencies]\n%s = %s\n' \
        "$name" "${dependency[$name]}" >"$work/Cargo.toml"
    cargo fetch --quiet --manifest-path "$work/Cargo.toml"
    # `crates` counts the crate itself and the empty one here, too.
    crates=$(cargo tree --quiet --edges normal,build --prefix none --no-dedupe \
        --manifest-path "$work/Cargo.toml" | sed 's/ (.*//' | sort --unique | wc --lines)
    TIMEFORMAT='%U %S'
    spent=$({ time cargo build --quiet --offline --release --manifest-path "$work/Cargo.toml" \
        --target-dir "$work/target" >/dev/null 2>&1; } 2>&1)
    printf '%-30s %7d %8.0f s\n' "$name" $((crates - 2)) "$(awk '{ print $1 + $2 }' <<<"$spent")"
done
rm -rf "$work"
