#!/usr/bin/env bash
# Compares this crate with its commit dee3f67, in turns in one process.
#
#     benches/before.sh time [ROUNDS]   # nanoseconds: the minimum of all rounds, before and after
#     benches/before.sh count           # instructions of one call by callgrind, before and after
#
# `time` needs an idle machine, and `count` does not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

commit=dee3f67
here=$PWD
work=$here/target/before
if [[ ! -d $work/old ]]; then
    mkdir -p "$work/old"
    git archive "$commit" | tar --extract --directory "$work/old"
    # Cargo cannot tell two packages with one name and one version apart.
    sed -i 's/^version = "0.1.0"/version = "0.0.1"/' "$work/old/Cargo.toml"
fi
sed "s|@HERE@|$here|" benches/before/Cargo.toml.in >"$work/Cargo.toml"
export CARGO_TARGET_DIR=$work/target
cargo build --quiet --release --manifest-path "$work/Cargo.toml"
program=$CARGO_TARGET_DIR/release/before

case ${1:-} in
time) "$program" "$@" ;;
count)
    "$program" rows | while read -r row; do
        counts=()
        for build in before after; do
            out=$(valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*measured*' \
                --callgrind-out-file=/dev/null "$program" count "$build" "$row" 2>&1)
            counts+=($(($(sed -n 's/.*Collected : //p' <<<"$out") / 200)))
        done
        printf '%s\t%d\t%d\n' "$row" "${counts[@]}"
    done
    ;;
*)
    sed -n '2,7p' "${BASH_SOURCE[0]}" >&2
    exit 1
    ;;
esac
