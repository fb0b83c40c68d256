#!/usr/bin/env bash
# Changes the code in small ways, one at a time, and asks for each change that a test fails.
#
#     tests/run/mutants.sh            # every shard: hours
#     tests/run/mutants.sh SHARD…     # those that are named
#     tests/run/mutants.sh --renew SHARD…
#
# A shard is one file of the source, or a folder: see `shards`. What survives is compared with
# tests/mutants/SHARD.txt, where each line has a reason; --renew only says where the new list is, to
# be looked at and given its reasons. It is the last commit that is tried, in a clone (TREE, by
# default in target/mutants/): two clones can work side by side, on shards of their own. Needs
# cargo-mutants, which it compiles if it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# For each the tests that are to notice: which binaries, and which of their modules.
shards=(jws claims json verify jwks scope rejection token_cache schedule refresh)
declare -A tests=(
    [jws]='--test it -- verify:: vectors:: foreign::'
    [claims]='--test it -- verify:: claims:: vectors:: foreign::'
    [json]='--lib --test it -- json:: verify:: claims:: jwks:: vectors:: bounds::'
    [verify]='--test it -- verify:: claims:: vectors:: token_cache:: promises:: allocations::'
    [jwks]='--lib --test it -- jwks:: verify:: vectors:: token_cache::'
    [scope]='--test it -- scope:: scope_table:: vectors:: config::'
    [rejection]='--lib --test it -- rejection:: doors:: layer:: grpc:: pages:: resource_metadata::'
    [token_cache]='--lib --test it -- token_cache:: allocations::'
    [schedule]='--lib --test it -- schedule:: refresh:: promises:: faults::'
    [refresh]='--lib --test it -- refresh:: promises:: faults:: model:: telemetry::'
)

renew=
if [[ ${1-} == --renew ]]; then
    renew=1
    shift
fi
chosen=("$@")
if ((${#chosen[@]} == 0)); then
    chosen=("${shards[@]}")
fi

target=$PWD/target
if ! cargo mutants --version >/dev/null 2>&1; then
    export PATH="$target/tools/bin:$PATH"
    cargo mutants --version >/dev/null 2>&1 || CARGO_PROFILE_DEV_DEBUG=0 \
        cargo install --quiet --debug --locked --root "$target/tools" cargo-mutants
fi

# survivors FILE: the changes it lists, without their reasons.
survivors() {
    sed -nE 's/^(src[^#]*[^# ]).*/\1/p' "$1" | LC_ALL=C sort
}

lists=$PWD/tests/mutants
tree=${TREE:-$target/mutants/tree}
if [[ -d $tree ]]; then
    git -C "$tree" fetch --quiet origin HEAD
    git -C "$tree" reset --quiet --hard FETCH_HEAD
else
    git clone --quiet . "$tree"
fi
unset CARGO_TARGET_DIR
export CARGO_PROFILE_DEV_DEBUG=0

failed=()
for shard in "${chosen[@]}"; do
    out=$target/mutants/$shard
    mkdir -p "$out"
    glob="src/$shard.rs"
    if [[ -d src/$shard ]]; then
        glob="src/$shard/*.rs"
    fi
    read -ra args <<<"${tests[$shard]}"
    # Without line numbers, so that the lists stay true when lines move.
    cargo mutants --dir "$tree" --in-place --no-shuffle --baseline skip --timeout 300 \
        --line-col=false --file "$glob" --output "$out" -- "${args[@]}" || (($? == 2 || $? == 3))
    cat "$out/mutants.out/missed.txt" "$out/mutants.out/timeout.txt" |
        sed -E 's/ +$//' | LC_ALL=C sort >"$out/survivors.txt"
    known=$lists/$shard.txt
    if [[ $renew ]]; then
        printf '%s: %d survivors, see %s\n' "$shard" "$(wc --lines <"$out/survivors.txt")" \
            "$out/survivors.txt"
    elif ! diff --unified=0 <(survivors "$known") "$out/survivors.txt"; then
        failed+=("$shard")
    fi
done
if ((${#failed[@]})); then
    printf 'FAILED: %s. A line with + is a change that no test notices: write the test, or a reason.\n' \
        "${failed[*]}"
    exit 1
fi
