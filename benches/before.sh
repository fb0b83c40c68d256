#!/usr/bin/env bash
# Compares this crate with its commit dee3f67, in turns in one process.
#
#     benches/before.sh time [ROUNDS]   # nanoseconds: the minimum of all rounds, before and after
#     benches/before.sh count           # instructions of one call by callgrind, before and after
#     benches/before.sh … --json FILE   # also adds the results to this file
#
# `time` runs twice, default 300 rounds each. It needs an idle machine, and `count` does not. It
# needs the history of the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. benches/packages.sh

here=$PWD
work=$target/before
older_commit "$work/old"
sed "s|@HERE@|$here|" benches/before/Cargo.toml.in >"$work/Cargo.toml"
cp Cargo.lock "$work/"
cargo build --quiet --release --manifest-path "$work/Cargo.toml" --target-dir "$work/target"
program=$work/target/release/before

case ${1:-} in
time)
    shift
    rounds=300
    if [[ ${1-} =~ ^[0-9]+$ ]]; then
        rounds=$1
        shift
    fi
    benches/rows.py compare "$program" time 2 "$rounds" "$@"
    ;;
count) benches/rows.py compare "$program" "$@" ;;
*)
    sed -n '2,8p' "${BASH_SOURCE[0]}" >&2
    exit 1
    ;;
esac
