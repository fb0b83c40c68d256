#!/usr/bin/env bash
# Changes the code in small ways, one at a time, and checks that a test fails for each change.
#
#     tests/run/mutants.sh            # every shard: hours
#     tests/run/mutants.sh SHARD…     # only these shards
#     tests/run/mutants.sh --renew SHARD…
#     tests/run/mutants.sh --go-on SHARD…
#
# A shard is a file or a folder of the source: see `shards`. The surviving changes are compared with
# tests/mutants/SHARD.txt, where each line has a reason. --renew only prints the path of the new
# list, so that you can add the reasons. --go-on does the same and skips the changes that an
# interrupted run has already detected. The script tests the last commit, in a clone (TREE, by
# default in target/mutants/): two clones can test different shards in parallel. Needs
# cargo-mutants, which it compiles if it is missing. A change also counts as detected if the tests
# do not end within TIMEOUT seconds (default 300).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The test modules that must detect the changes of each shard. Those after a `|` run only for the changes
# that those before it do not detect, because tests take longer than a build.
shards=(jws claims json verify jwks path scope scope_table rejection layer token_cache schedule refresh
    verifier config)
declare -A tests=(
    [jws]='verify:: | precedence:: vectors::'
    [claims]='verify:: | claims:: vectors::'
    [json]='json:: | verify:: claims:: jwks:: vectors:: resource_limits::'
    [verify]='verify:: | precedence:: claims:: errors:: | vectors:: allocations:: token_cache::'
    [jwks]='jwks:: | verify:: vectors:: telemetry:: | token_cache:: refresh_guarantees:: faults::'
    [path]='path:: | scope_table:: axum_router::'
    [scope_table]='scope_table:: | axum_router:: layer:: vectors:: resource_metadata::'
    [layer]='rejections:: | layer:: drain:: require_group:: axum_router:: autotraits:: |
        grpc:: telemetry:: resource_metadata:: scope_table::'
    [verifier]='refresh:: config:: user_pool:: errors:: | rejections:: telemetry:: token_cache:: |
        refresh_guarantees:: faults:: executors::'
    [config]='config:: | user_pool:: errors::'
    [scope]='scope:: | scope_table:: vectors:: config::'
    [rejection]='rejections:: | drain:: claims:: layer:: grpc:: docs_in_sync:: resource_metadata::'
    [token_cache]='token_cache:: | allocations::'
    [schedule]='schedule:: | refresh:: refresh_guarantees:: faults:: refresh_model::'
    [refresh]='refresh:: | refresh_guarantees:: faults:: refresh_model:: telemetry::'
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

# survivors FILE: prints the listed changes without their reasons.
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

# Keeps only these modules of the integration tests and the modules that they use, because
# everything that is left is built again for each change.
keep_modules() {
    local main=$tree/tests/it/main.rs kept=("$@") module used
    git -C "$tree" checkout --quiet tests/it/main.rs
    # The loop appends to the list.
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

# mutate MODULE…: runs these tests for each change of the shard. `options` are further options of
# cargo-mutants.
mutate() {
    cargo mutants "${options[@]}" --dir "$tree" --in-place --no-shuffle --baseline skip \
        --timeout "${TIMEOUT:-300}" --file "$glob" --output "$out" \
        --package tower-cognito --test-package tower-cognito,integration-tests \
        --cargo-arg=--lib --cargo-arg=--test --cargo-arg=it -- -- "$@" ||
        (($? == 2 || $? == 3))
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
    if [[ ! $(cargo mutants --list --dir "$tree" --file "$glob" --package tower-cognito) ]]; then
        echo "there is nothing to change in $glob" >&2
        exit 1
    fi
    # One group in a line.
    groups=$(tr '\n|' ' \n' <<<"${tests[$shard]}")
    read -rd '' -a modules <<<"$groups" || true
    keep_modules "${modules[@]%::}"
    # The tests must pass without a change, or every change would seem to be detected.
    if ! (cd "$tree" && cargo test --quiet --lib --test it -- "${modules[@]}") >"$out/unchanged.log" 2>&1; then
        cat "$out/unchanged.log" >&2
        exit 1
    fi
    options=("${iterate[@]}")
    while read -ra group <&3; do
        mutate "${group[@]}"
        options=(--iterate)
    done 3<<<"$groups"
    # Remove line numbers, so that the lists stay valid when lines move.
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
