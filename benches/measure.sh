#!/usr/bin/env bash
# Measures everything on the page "What it costs" and writes the results to benches/results/.
#
#     benches/measure.sh && benches/report.py
#
# It takes about ten minutes on an idle machine. The bench runs twice, to show how much the results
# vary. benches/report.py generates the page's tables and chart from the results.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
results=$PWD/benches/results
if [[ $(git status --porcelain -- src benches Cargo.toml ':!benches/results') ]]; then
    echo 'commit first: the results name a commit' >&2
    exit 1
fi
mkdir -p "$results"

field() {
    lscpu | sed -nE "s/^$1: +//p" | sed -n 1p
}
cat >"$results/machine.json" <<JSON
{
  "processor": "$(field 'Model name'), $(nproc) cores, $(field 'L1d cache' | sed 's/ (.*//') of L1 data in all",
  "system": "$(uname -sm), $(rustc --version | cut -d' ' -f1,2)",
  "commit": "$(git rev-parse --short HEAD)",
  "date": "$(date --utc +%F)"
}
JSON

# Continue if a row misses its target: the page shows it.
for run in 1 2; do
    cargo bench --quiet --bench cost -- --json "$results/cost-$run.json" ||
        [[ $results/cost-$run.json -nt $results/machine.json ]]
done
cargo run --quiet --release -p comparison -- \
    --json "$results/neighbours.json"
tests/run/load.sh --json "$results/load.json"
