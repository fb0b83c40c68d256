#!/usr/bin/env python3
"""Generates the tables and the chart of the page "Performance" from the results.

    benches/report.py            # after benches/measure.sh
    benches/report.py --check    # fails unless page, README and chart match benches/results/

It writes only the blocks between `<!-- NAME -->` and `<!-- end -->`. Needs only Python.
"""

import json
import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results"
PAGE = ROOT / "src" / "docs" / "performance.md"
README = ROOT / "README.md"
CHART = ROOT / "src" / "docs" / "performance.svg"

# The price of one vCPU of AWS Fargate (Linux, x86) in us-east-1 per hour, and the hours of a month.
VCPU_HOUR = 0.04048
MONTH = 730

BARE = "the bare RSA check"

# In µs of processor time. Smaller values are noise in tests/run/load.sh; the bench measures them.
LEAST = 1


# The names of rows in benches/results are those of the first measurement. The pages use today's words.
WORDS = {
    "cache on, seen before": "cached token",
    "token seen before": "cached token",
    "token, cache off": "token, not cached",
    "refused: ": "rejected: ",
    "neighbour": "neighbor",
}


def results(name):
    rows = json.loads((RESULTS / f"{name}.json").read_text())
    if isinstance(rows, list):
        for row in rows:
            for old, new in WORDS.items():
                row["name"] = row["name"].replace(old, new)
    return rows


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


def cost():
    rows = []
    for row, values in both_runs():
        most, least = row["at_most"], row["at_least"]
        target, verdict = "", ""
        if most is not None:
            target, is_met = f"at most {number(most)}", max(values) <= most
        elif least is not None:
            target, is_met = f"at least {number(least)}", min(values) >= least
        if target:
            verdict = "ok" if is_met else "**missed**"
        rows.append([row["name"], target, *map(number, values), verdict])
    return table(["what", "target", "run 1", "run 2", ""], rows)


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
    of = results("machine")
    return f"{of['processor']}; {of['system']}; commit `{of['commit']}`, {of['date']}."


def money():
    """Returns the cost of 1,000 requests per second."""
    rows = []
    for row in results("load"):
        added = row["cpu_us_added"]
        if row["name"].startswith("without"):
            continue
        under = "" if added >= LEAST else "under "
        added = max(added, LEAST)
        cores = added * 1000 / 1e6
        cents = math.ceil(cores * VCPU_HOUR * MONTH * 100)
        cells = f"{added / 1000:.4f} ms", f"{cores:.2%}", f"{cents / 100:.2f} USD"
        rows.append([row["name"], *(under + cell for cell in cells)])
    return table(["", "added to a request", "of one vCPU", "a month"], rows)


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
    "cost": cost,
    "neighbours": neighbours,
    "load": load,
    "machine": machine,
    "money": money,
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
