#!/usr/bin/env python3
"""Generates the tables and the chart of the page "Performance" from the results.

    benches/report.py            # after benches/measure.sh
    benches/report.py --check    # fails unless page, README and chart match benches/results/

It writes only the blocks between `<!-- NAME -->` and `<!-- end -->`. Needs only Python.
"""

import json
import pathlib
import re
import sys

from rows import JITTER, NODE, PEER, RESULTS, ROOT, Row, rows as rows_of

PAGE = ROOT / "src" / "docs" / "performance.md"
README = ROOT / "README.md"
CHART = ROOT / "src" / "docs" / "performance.svg"

# The price of one vCPU of AWS Fargate (Linux, x86) in us-east-1, in USD per second.
VCPU_SECOND = 0.04048 / 3600

BARE = "the bare RSA check"

# In µs of processor time. Smaller values are noise in tests/run/load.sh; the bench measures them.
LEAST = 1


def file(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def results(name):
    """Returns the list of rows of a file."""
    kind = re.sub(r"-\d$", "", name)
    return file(name)[kind]


def both_runs():
    """Yields the rows of the bench with their values in both runs."""
    for first, second in zip(results("cost-1"), results("cost-2"), strict=True):
        assert first["name"] == second["name"]
        yield first, (first["value"], second["value"])


def number(value):
    """Formats a number with at most four decimals."""
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def limited(rows):
    """Returns the table of rows that have limits."""
    lines, runs = [], 1
    for row in rows:
        limit = "" if row.limit is None else f"{row.kind} {number(row.limit)}"
        verdict = "**MISS**" if row.verdict == "MISS" else row.verdict
        runs = max(runs, len(row.values))
        lines.append([row.name, limit, *map(number, row.values), verdict])
    for line in lines:
        line[-1:-1] = [""] * (runs + 3 - len(line))
    return table(["what", "limit", *(f"run {run + 1}" for run in range(runs)), ""], lines)


def cost():
    return limited(Row("cost", row["name"], list(values)) for row, values in both_runs())


def compared():
    """Returns the rows of requests, cold start and build. What a layer adds is also counted: it is less
    than the noise of the time."""
    found = []
    for name in ("before", "posts", "envoy", "cold_start", "build"):
        for row in rows_of(file(name)):
            if "instructions" in row.more:
                if not re.search(", beyond |, to a second", row.name):
                    continue
                row.name += ", instructions"
            found.append(row)
    return limited(found)


def users():
    """Returns the first table of the page."""
    commit = {name: f"`{file(name)['commit']}`" for name in ("load", "cold_start", "build")}
    added = {row["name"]: row["cpu_us_added"] for row in results("load")}
    start, build = file("cold_start"), file("build")
    peers = [added[PEER], added["axum-jwt-auth"]]
    rows = []
    for title, name in [("a cached token", "cache on"), ("a new token", "cache off")]:
        spent = [added[f"tower-cognito, {name}"], *peers]
        rows.append([f"CPU time added to a request with {title}", *map(microseconds, spent), "", commit["load"]])
        # Microseconds of a request are kiloseconds of a billion requests.
        dollars = [f"{max(us, LEAST) * 1000 * VCPU_SECOND:.2f} USD" for us in spent]
        rows.append(["the same, of a billion requests", *dollars, "", commit["load"]])
    for title, of, unit, name in [
        ("cold start", "milliseconds", "ms", "after"),
        (f"cold start, built with `{JITTER}`", "milliseconds", "ms", f"after, {JITTER}"),
        ("peak memory", "peak_megabytes", "MB", "after"),
    ]:
        ours, node = max(start[of][name]), min(start[of][NODE])
        rows.append([title, f"{ours} {unit}", "", "", f"{node} {unit}", commit["cold_start"]])
    for suffix in ("", " without reqwest"):
        name = f"tower-cognito{suffix}"
        seconds = [f"{max(build['cpu_seconds'][of]):.0f} s, {build['crates'][of]} crates"
                   if of in build["crates"] else "" for of in (name, PEER, "axum-jwt-auth")]
        if suffix:
            seconds[1:] = ["", ""]
        rows.append([f"CPU time of a clean build{suffix}", *seconds, "", commit["build"]])
    peer = NODE.replace("Node, ", "Node with ")
    return (
        table(["", "this crate", PEER, "axum-jwt-auth", peer, "commit"], rows)
        + "\n\nOne vCPU of AWS Fargate (Linux on x86, us-east-1) costs "
        f"[{VCPU_SECOND * 3600:.5f} USD per hour](https://aws.amazon.com/fargate/pricing/),\n"
        f"or {VCPU_SECOND:.8f} USD per second."
    )


def verifiers():
    return [row for row in results("neighbours") if row["kind"] == "verify"]


def neighbours():
    rows = sorted(verifiers(), key=lambda row: row["to_the_bare_rsa_check"])
    return table(
        ["", "to the bare RSA check", "allocations"],
        [
            [row["name"], number(row["to_the_bare_rsa_check"]), row["allocations"]]
            for row in rows
        ],
    )


def microseconds(added):
    return f"{added:.1f} µs" if added >= LEAST else f"under {LEAST} µs"


def load():
    return table(
        ["", "requests per second", "processor time per request", "added"],
        [
            [
                row["name"],
                number(round(row["requests_per_second"])),
                f"{row['cpu_us_per_request']:.1f} µs",
                "" if row["name"].startswith("without") else microseconds(row["cpu_us_added"]),
            ]
            for row in results("load")
        ],
    )


def machine():
    """Returns the machine and commit of each file."""
    machines = {}
    for path in sorted(RESULTS.glob("*.json")):
        of = file(path.stem)
        named = (of["processor"], of.get("system"), f"commit `{of['commit']}`, {of['date']}")
        line = "; ".join(part for part in named if part)
        machines.setdefault(line, []).append(f"`{path.name}`")
        if "note" in of:
            machines[line][-1] += f" ({of['note']})"
    return "\n".join(f"* {', '.join(files)}: {line}." for line, files in machines.items())


def summary():
    """Returns the summary in the README."""
    worse = {row["name"]: max(values) for row, values in both_runs()}
    added = {row["name"]: row["cpu_us_added"] for row in results("load")}
    cached, new = worse["cached token"], worse["new token, not cached"]
    return (
        f"A cached token costs {cached:.1%} of one bare RSA-2048 signature check, and a new one "
        f"{new:.0%}.\nUnder load, an axum server spends "
        f"{microseconds(added['tower-cognito, cache on'])} more processor time on a request with\n"
        f"this crate and a cached token, and {added['axum-jwt-auth']:.0f} to "
        f"{added['tower-oauth2-resource-server']:.0f} µs more with two others."
    )


# ---- The chart -------------------------------------------------------------------------------

WIDTH, LEFT, TOP, STEP, BAR = 780, 310, 62, 30, 18


def bars():
    """Returns names, ratios and kinds, the fastest first."""

    def kind(name):
        return "ours" if name.startswith("tower-cognito") else "bare" if name == BARE else "other"

    rows = [(row["name"], row["to_the_bare_rsa_check"]) for row in verifiers()]
    return [(name, value, kind(name)) for name, value in sorted(rows, key=lambda row: row[1])]


def chart():
    rows = bars()
    scale = (WIDTH - LEFT - 80) / max(value for _, value, _ in rows)
    height = TOP + STEP * len(rows) + 20
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Time of a verification, as a multiple of one bare RSA-2048 check" '
        f'font-family="system-ui, sans-serif" font-size="13">',
        # It has its own background, so that it is readable on a page of any color.
        "<style>",
        ".cost-ground{fill:#ffffff;stroke:#d0d7de}.cost-text{fill:#1f2328}.cost-soft{fill:#59636e}",
        ".cost-ours{fill:#0969da}.cost-other{fill:#afb8c1}.cost-bare{fill:#59636e}",
        "@media (prefers-color-scheme:dark){",
        ".cost-ground{fill:#0d1117;stroke:#3d444d}.cost-text{fill:#f0f6fc}.cost-soft{fill:#9198a1}",
        ".cost-ours{fill:#4493f8}.cost-other{fill:#656c76}.cost-bare{fill:#9198a1}}",
        "</style>",
        f'<rect class="cost-ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        '<text class="cost-text" x="20" y="28" font-weight="600">Time to verify one access token</text>',
        '<text class="cost-soft" x="20" y="46">as a multiple of one bare RSA-2048 check '
        "with a parsed key; less is better</text>",
    ]
    for index, (name, value, kind) in enumerate(rows):
        y = TOP + STEP * index
        middle = y + BAR / 2 + 5
        text += [
            f'<text class="cost-text" x="{LEFT - 10}" y="{middle:g}" text-anchor="end">{name}</text>',
            f'<rect class="cost-{kind}" x="{LEFT}" y="{y}" width="{max(value * scale, 1.5):.1f}" '
            f'height="{BAR}" rx="2"/>',
            f'<text class="cost-text" x="{LEFT + value * scale + 8:.1f}" y="{middle:g}">'
            f"{value:.3f}</text>",
        ]
    return "\n".join([*text, "</svg>"]) + "\n"


# ---- The files -------------------------------------------------------------------------------

BLOCKS = {
    "users": users,
    "cost": cost,
    "compared": compared,
    "neighbours": neighbours,
    "load": load,
    "machine": machine,
    "summary": summary,
}


def filled(text):
    def block(found):
        return f"<!-- {found[1]} -->\n{BLOCKS[found[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def main():
    wanted = {file: filled(file.read_text()) for file in (PAGE, README)}
    for name in BLOCKS:
        count = sum(text.count(f"<!-- {name} -->\n") for text in wanted.values())
        assert count == 1, f"the block {name} occurs {count} times"
    wanted[CHART] = chart()
    if sys.argv[1:] == ["--check"]:
        stale = [file for file, text in wanted.items() if not file.is_file() or file.read_text() != text]
        for file in stale:
            print(f"{file.relative_to(ROOT)} does not match benches/results/: run benches/report.py")
        sys.exit(1 if stale else 0)
    for file, text in wanted.items():
        file.write_text(text)


if __name__ == "__main__":
    main()
