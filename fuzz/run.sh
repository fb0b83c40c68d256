#!/usr/bin/env bash
# Fuzzes on stable Rust: all targets or the named ones, each for some seconds.
#
#     fuzz/run.sh [SECONDS] [TARGET…]
#     fuzz/run.sh --again TARGET FILE…
#
# The second form runs each input once, such as one that made a run fail. Besides Rust, it needs a
# C++ compiler. JOBS targets run in parallel (default 2), with the seed SEED (default 1).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

all=(authorization claims jwks refresh token)

# The code reports the edges that it takes to libFuzzer. It does not report comparisons: this would
# take most of the time, and json.dict and the inputs that are read as choices work as well.
flags=(
    --cfg tower_cognito_fuzz
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0
    -Ccodegen-units=1
    -Cdebug-assertions
)
# With an explicit target, the flags do not apply to build scripts and macros.
host=$(rustc --version --verbose | sed -n 's/^host: //p')
built=${CARGO_TARGET_DIR:-../target}/fuzz
env -u CARGO_ENCODED_RUSTFLAGS RUSTFLAGS="${flags[*]}" CARGO_TARGET_DIR="$built" \
    cargo build --quiet --release --bins --target "$host"
programs=$built/$host/release

if [[ ${1-} == --again ]]; then
    target=$2
    shift 2
    exec "$programs/$target" "$@"
fi

seconds=20
if [[ ${1-} =~ ^[1-9][0-9]*$ ]]; then
    seconds=$1
    shift
fi
targets=("$@")
if ((${#targets[@]} == 0)); then
    targets=("${all[@]}")
fi

# fuzz TARGET: writes its output to artifacts/TARGET.log.
fuzz() {
    mkdir -p "corpus/$1" artifacts
    "$programs/$1" -max_total_time="$seconds" -seed="${SEED:-1}" -max_len=2048 -timeout=10 \
        -rss_limit_mb=1024 -dict=json.dict -print_final_stats=1 -artifact_prefix="artifacts/$1-" \
        "corpus/$1" "seeds/$1" >"artifacts/$1.log" 2>&1
}

# figure TARGET NAME: prints the last figure of this name in the log.
figure() {
    grep -oE "$2[: ]+[0-9]+" "artifacts/$1.log" | tail -n 1 | grep -oE '[0-9]+$' || echo '?'
}

report() {
    printf '%-14s %9s executions, %6s in a second, %5s edges, %6s features\n' "$1" \
        "$(figure "$1" stat::number_of_executed_units)" \
        "$(figure "$1" stat::average_exec_per_sec)" "$(figure "$1" cov)" "$(figure "$1" ft)"
}

printf '%s s each: %s\n' "$seconds" "${targets[*]}"
declare -A running=()
failed=()
finish_one() {
    local process code=0
    wait -n -p process "${!running[@]}" || code=$?
    if ((code)); then
        failed+=("${running[$process]}")
    fi
    unset "running[$process]"
}
for target in "${targets[@]}"; do
    if ((${#running[@]} >= ${JOBS:-2})); then
        finish_one
    fi
    fuzz "$target" &
    running[$!]=$target
done
while ((${#running[@]})); do
    finish_one
done

for target in "${targets[@]}"; do
    report "$target"
done
if ((${#failed[@]} == 0)); then
    exit 0
fi
for target in "${failed[@]}"; do
    log=artifacts/$target.log
    # Print the panic and the path of the input.
    printf '\nFAILED: %s, see fuzz/%s\n' "$target" "$log"
    grep -A 4 'panicked at\|ERROR: libFuzzer' "$log" | cut -c 1-600 | head -n 12 || true
    input=$(grep -oE "artifacts/$target-[a-z-]+-[0-9a-f]+" "$log" | tail -n 1 || true)
    if [[ $input ]]; then
        printf 'Again:    fuzz/run.sh --again %s %s\n' "$target" "$input"
        printf 'Smaller:  fuzz/run.sh --again %s -minimize_crash=1 -runs=100000 %s\n' \
            "$target" "$input"
        printf 'Fixed:    copy it to fuzz/seeds/%s/, where every run begins\n' "$target"
    fi
done
exit 1
