#!/usr/bin/env bash
# Changes the code in small ways, one at a time, and asks for each change that a test fails.
#
#     tests/run/mutants.sh            # every shard: hours
#     tests/run/mutants.sh SHARD…     # those that are named
#     tests/run/mutants.sh --renew SHARD…
#     tests/run/mutants.sh --go-on SHARD…
#
# A shard is one file of the source, or a folder: see `shards`. What survives is compared with
# tests/mutants/SHARD.txt, where each line has a reason; --renew only says where the new list is, to
# be looked at and given its reasons. --go-on is that, without what was noticed in a run that was
# ended before. It is the last commit that is tried, in a clone (TREE, by
# default in target/mutants/): two clones can work side by side, on shards of their own. Needs
# cargo-mutants, which it compiles if it is missing. A change after which the tests do not end within
# TIMEOUT seconds (300 unless set) is noticed, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# For each the modules of the tests that are to notice.
shards=(jws claims json verify jwks scope rejection token_cache schedule refresh)
declare -A tests=(
    [jws]='verify:: vectors:: foreign::'
    [claims]='verify:: claims:: vectors:: foreign::'
    [json]='json:: verify:: claims:: jwks:: vectors:: bounds::'
    [verify]='verify:: claims:: vectors:: errors:: allocations:: token_cache::'
    [jwks]='jwks:: verify:: vectors:: token_cache:: telemetry:: promises::'
    [scope]='scope:: scope_table:: vectors:: config::'
    [rejection]='rejection:: claims:: doors:: layer:: grpc:: docs_in_sync:: resource_metadata::'
    [token_cache]='token_cache:: allocations::'
    [schedule]='schedule:: refresh:: promises:: faults::'
    [refresh]='refresh:: promises:: faults:: refresh_model:: telemetry::'
)

renew=
iterate=()
if [[ ${1-} == --renew || ${1-} == --go-on ]]; then
    renew=1
    [[ $1 == --renew ]] || iterate=(--iterate)
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

for shard in "${chosen[@]}"; do
    if [[ ! $renew && ! -f $lists/$shard.txt ]]; then
        echo "there is no list of what survives in this shard: $lists/$shard.txt" >&2
        exit 1
    fi
done

# Leaves of the integration tests these modules, and those that they use: each change is followed
# by a build of all that is left.
keep_modules() {
    local main=$tree/tests/it/main.rs kept=("$@") module used
    git -C "$tree" checkout --quiet tests/it/main.rs
    # The list grows while it is read.
    for ((i = 0; i < ${#kept[@]}; i++)); do
        module=$tree/tests/it/${kept[i]}.rs
        [[ -f $module ]] || continue
        for used in $(grep -ohE '(super|crate)::[a-z_]+' "$module" | sed 's/.*:://' | sort -u); do
            [[ " ${kept[*]} " == *" $used "* ]] || kept+=("$used")
        done
    done
    grep -E "^mod ($(IFS='|' && echo "${kept[*]}"));" "$main" >"$main.kept"
    mv "$main.kept" "$main"
}

failed=()
for shard in "${chosen[@]}"; do
    known=$lists/$shard.txt
    out=$target/mutants/$shard
    mkdir -p "$out"
    glob="src/$shard.rs"
    if [[ -d src/$shard ]]; then
        glob="src/$shard/*.rs"
    fi
    read -ra modules <<<"${tests[$shard]}"
    keep_modules "${modules[@]%::}"
    # As they are they pass, or each change would seem to be noticed.
    (cd "$tree" && cargo test --quiet --lib --test it -- "${modules[@]}" >/dev/null)
    cargo mutants "${iterate[@]}" --dir "$tree" --in-place --no-shuffle --baseline skip --timeout "${TIMEOUT:-300}" \
        --file "$glob" --output "$out" \
        --cargo-arg=--lib --cargo-arg=--test --cargo-arg=it -- -- "${modules[@]}" ||
        (($? == 2 || $? == 3))
    if ! grep --quiet --extended-regexp '"(name|function)"' "$out/mutants.out/mutants.json"; then
        echo "nothing of $glob was changed" >&2
        exit 1
    fi
    # Without line numbers, so that the lists stay true when lines move.
    sed -E 's/^([^:]+):[0-9]+:[0-9]+:/\1:/' "$out/mutants.out/missed.txt" |
        LC_ALL=C sort >"$out/survivors.txt"
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
