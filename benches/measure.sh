#!/usr/bin/env bash
# Measures everything on the page "Performance" and writes the results to benches/results/, with the
# commit that they belong to.
#
#     benches/measure.sh            # all parts
#     benches/measure.sh PART…
#     benches/report.py             # afterwards: generates the tables and the chart of the page
#
# Needs an idle machine, a network, the history of the repository, Node with npm, openssl, and
# valgrind. As root on Debian it installs what is missing. Each row is printed with its limit, and
# `ok` or `MISS`; a MISS does not end the program, and the last lines repeat each of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. benches/packages.sh
. tests/run/debian.sh
results=$PWD/benches/results

# Estimates for two idle cores, including the builds.
parts=(cost neighbours load before instructions posts envoy cold_start build)
declare -A about=(
    [cost]='8 minutes: the cost of a verification, twice'
    [neighbours]='6 minutes: other crates with the same token'
    [load]='2 minutes: a server under load'
    [before]='5 minutes: requests, in turns with an older commit, twice'
    [instructions]='4 minutes: the same by callgrind'
    [posts]='1 minute: rejected POST requests, twice'
    [envoy]='7 minutes: two authorizers behind Envoy, twice'
    [cold_start]='8 minutes: from exec to the first response, twice'
    [build]='20 minutes: clean builds, twice'
)
chosen=("$@")
((${#chosen[@]})) || chosen=("${parts[@]}")
for part in "${chosen[@]}"; do
    [[ ${about[$part]-} ]] || {
        printf 'There is no part %s. Parts: %s\n' "$part" "${parts[*]}" >&2
        exit 2
    }
    printf '%-14s %s\n' "$part" "${about[$part]}"
done

if [[ $(git status --porcelain -- src benches Cargo.toml Cargo.lock ':!benches/results') ]]; then
    echo 'commit first: the results name a commit' >&2
    exit 1
fi
if ! git cat-file -e "$older^{commit}" 2>/dev/null; then
    echo 'the history is missing: git fetch --unshallow' >&2
    exit 1
fi
missing=()
command -v lscpu >/dev/null || missing+=(util-linux)
command -v npm >/dev/null || missing+=(nodejs npm)
command -v openssl >/dev/null || missing+=(openssl)
command -v valgrind >/dev/null || missing+=(valgrind)
((${#missing[@]} == 0)) || debian_install "${missing[@]}"

mkdir -p "$results"
log=$target/measure.log
: >"$log"
list=$target/measured.json

cost() {
    for run in 1 2; do
        # It fails if a row misses its limit, after it has written the file.
        rm -f "$list"
        cargo bench --quiet --bench cost -- --json "$list" || [[ -e $list ]]
        benches/rows.py cost "$list" --json "$results/cost-$run.json"
    done
}

neighbours() {
    cargo run --quiet --release -p benches --features neighbours --bin comparison -- --json "$list"
    benches/rows.py neighbours "$list" --json "$results/neighbours.json"
}

load() {
    tests/run/load.sh --json "$list"
    benches/rows.py load "$list" --json "$results/load.json" >/dev/null
}

before() {
    benches/before.sh time 1500 --json "$results/before.json"
}

instructions() {
    benches/before.sh count --json "$results/before.json" || true
}

posts() {
    benches/before.sh posts --json "$results/posts.json"
}

envoy() {
    benches/envoy.py 5 --json "$results/envoy.json"
}

cold_start() {
    benches/cold_start/measure.py 60 --json "$results/cold_start.json"
}

build() {
    RUNS=2 benches/build.sh --json "$results/build.json"
}

for part in "${chosen[@]}"; do
    printf '\n== %s\n' "$part"
    "$part" | tee --append "$log"
done
printf '\n== Rows that miss their limit\n'
grep MISS "$log" || echo none
