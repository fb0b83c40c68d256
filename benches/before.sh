#!/usr/bin/env bash
# Compares this crate with its commit dee3f67, in turns in one process.
#
#     benches/before.sh time [ROUNDS]   # nanoseconds: the minimum of all rounds, before and after
#     benches/before.sh count           # instructions of one call by callgrind, before and after
#     benches/before.sh posts [ROUNDS]  # rejected POST requests: time, and responses that were lost
#     benches/before.sh … --json FILE   # also adds the results to this file
#
# `time` and `posts` run twice, default 300 and 60 rounds each. They need an idle machine, and `count`
# does not. All need the history of the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. benches/packages.sh

here=$PWD
work=$target/before
older_commit "$work/old"
sed "s|@HERE@|$here|" benches/before/Cargo.toml.in >"$work/Cargo.toml"
cp Cargo.lock "$work/"
cargo build --quiet --release --manifest-path "$work/Cargo.toml" --target-dir "$work/target"
programs=$work/target/release

case ${1:-} in
time | posts)
    kind=$1 program=before rounds=300
    [[ $kind == time ]] || program=posts rounds=60
    shift
    if [[ ${1-} =~ ^[0-9]+$ ]]; then
        rounds=$1
        shift
    fi
    benches/rows.py compare "$programs/$program" "$kind" 2 "$rounds" "$@"
    ;;
count) benches/rows.py compare "$programs/before" "$@" ;;
*)
    sed -n '2,9p' "${BASH_SOURCE[0]}" >&2
    exit 1
    ;;
esac
