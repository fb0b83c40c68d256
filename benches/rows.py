#!/usr/bin/env python3
"""Compares results with the limits in benches/limits.tsv, and prints `ok` or `MISS` for each row.

    benches/rows.py counts PROGRAM                   # counts instructions of benches/src/bin/requests.rs
    benches/rows.py compare PROGRAM count            # as benches/before.sh, with its built program
    benches/rows.py compare PROGRAM time|posts RUNS ROUNDS
    benches/rows.py build|crates                     # lines of benches/build.sh, on standard input
    benches/rows.py load FILE                        # the results of tests/run/load.sh
    benches/rows.py show FILE…                       # results that were written before

`--json FILE` writes the results. The exit code is 1 if a counted row misses its limit. Timed rows
depend on the load of the machine, so a MISS of these is only printed.
"""

import datetime
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benches" / "results"
BARE = "bare service"
NODE = "Node, aws-jwt-verify 5.2.1"
JITTER = "AWS_LC_SYS_NO_JITTER_ENTROPY=1"
PEER = "tower-oauth2-resource-server"
FLOOR = "a server that allows everything"
JWT_AUTHN = "jwt_authn"


def limits():
    """Returns kind and number of each limit, by program and row."""
    found = {}
    for line in (ROOT / "benches" / "limits.tsv").read_text().splitlines():
        if line and not line.startswith("#"):
            program, row, kind, number = line.split("\t")
            assert kind in ("at most", "at least") and (program, row) not in found, line
            found[program, row] = kind, float(number)
    return found


LIMITS = limits()


class Row:
    """A row of a program, with its values in one or more runs."""

    def __init__(self, program, name, values, more=""):
        self.name, self.values, self.more = name, values, more
        self.kind, self.limit = LIMITS.get((program, name), ("", None))

    @property
    def verdict(self):
        if self.limit is None:
            return ""
        if self.kind == "at most":
            return "ok" if max(self.values) <= self.limit else "MISS"
        return "ok" if min(self.values) >= self.limit else "MISS"

    def __str__(self):
        values = " ".join(f"{value:9.3f}" for value in self.values)
        limit = "reference" if self.limit is None else f"{self.kind} {self.limit:g}"
        return f"{self.name:66} {values}  {limit:15} {self.verdict:4}  {self.more}".rstrip()


def show(rows):
    """Prints the rows, and returns whether each meets its limit."""
    rows = list(rows)
    print(*rows, sep="\n", flush=True)
    return all(row.verdict != "MISS" for row in rows)


# ---- From results to rows ----------------------------------------------------------------------

# The row that each row is compared with. A difference is divided by the count of the bare service,
# which depends only on the compiler and on the crate `http`.
BEYOND = {
    "RequireToken": BARE,
    "RequireToken, RequireScope": "RequireToken",
    "RequireToken, scope in the rules": "RequireToken",
    "RequireToken, table of 1 row": "RequireToken",
    "RequireToken, table of 41 rows": "RequireToken",
    "axum, RequireToken": "axum",
    "axum, RequireToken, extractor": "axum, RequireToken",
    "axum, RequireToken, RequireScope": "axum, RequireToken",
    "axum, both as one layer": "axum, RequireToken",
    "axum, RequireToken, scope in the rules": "axum, RequireToken",
}
TRY_VERIFY, THROUGH = "unknown key, 13 KB, try_verify", "unknown key, 13 KB, RequireToken"


def ratios(values, bases):
    return [value / base for value, base in zip(values, bases, strict=True)]


def numbers(values):
    return ", ".join(str(value) for value in values)


def count_rows(results):
    count = {row["name"]: row["count"] for row in results["instructions"]}
    yield Row("counts", "cached token, to the bare service", [count["cached token"] / count[BARE]])
    for name, base in BEYOND.items():
        value = (count[name] - count[base]) / count[BARE]
        more = f"{count[name] - count[base]} of {count[name]} instructions"
        yield Row("counts", f"{name}, beyond {base}", [value], more)
    value = count[THROUGH] / count[TRY_VERIFY]
    yield Row("counts", "unknown key, 13 KB, RequireToken to try_verify", [value])


def before_rows(results, unit):
    """Yields the rows of `nanoseconds` or `instructions`."""
    def runs(value):
        return value if isinstance(value, list) else [value]

    before = {row["name"]: runs(row["before"]) for row in results[unit]}
    after = {row["name"]: runs(row["after"]) for row in results[unit]}

    for name in before:
        if "rules" in name:
            # The older commit has no scope in the rules, so it does less here.
            continue
        values = ratios(after[name], before[name])
        more = f"{numbers(before[name])} to {numbers(after[name])} {unit}"
        yield Row("before", name, values, more)
    axum = "axum, RequireToken"
    two_layers = f"{axum}, RequireScope"
    for title, new, new_base, old, old_base in [
        ("table of 1 row, beyond RequireToken", *["RequireToken, table of 1 row", "RequireToken"] * 2),
        ("table of 41 rows, beyond RequireToken", *["RequireToken, table of 41 rows", "RequireToken"] * 2),
        ("scope in the rules, to a second layer", f"{axum}, scope in the rules", axum, two_layers, axum),
        ("both as one layer, to a second layer", "axum, both as one layer", axum, two_layers, axum),
    ]:
        if not {new, new_base} <= after.keys() or not {old, old_base} <= before.keys():
            continue
        new = [one - base for one, base in zip(after[new], after[new_base], strict=True)]
        old = [one - base for one, base in zip(before[old], before[old_base], strict=True)]
        more = f"{numbers(old)} to {numbers(new)} {unit}"
        yield Row("before", title, ratios(new, old), more)
    if THROUGH in after:
        values = ratios(after[THROUGH], after[TRY_VERIFY])
        more = f"{numbers(after[TRY_VERIFY])} and {numbers(after[THROUGH])} {unit}"
        yield Row("before", "unknown key, 13 KB, RequireToken to try_verify", values, more)


def posts_rows(results):
    """Yields the rows of rejected POST requests."""
    for name, builds in results["posts"].items():
        before, after = builds["before"], builds["after"]
        name = f"rejected POST, {name}"
        yield Row("posts", f"{name}, lost responses", after["lost"], f"{numbers(before['lost'])} before")
        times = after["microseconds"], before["microseconds"]
        more = f"{numbers(times[1])} to {numbers(times[0])} µs"
        yield Row("posts", f"{name}, time, to the older commit", ratios(*times), more)


def envoy_rows(results):
    """Yields the rows of two authorizers behind Envoy."""
    spent, rates = results["cpu_us_per_request"], results["requests_per_second"]

    def row(title, of, name, base, unit):
        return Row("envoy", title, ratios(of[name], of[base]), f"{numbers(of[base])} and {numbers(of[name])} {unit}")

    cpu, rate = "behind Envoy, processor time", "behind Envoy, requests per second"
    yield row(f"{cpu}, to the older commit", spent, "after", "before", "µs")
    yield row(f"{cpu}, to a server that allows everything", spent, "after", FLOOR, "µs")
    yield row(f"{cpu} over HTTP, to the older commit over gRPC", spent, "after, HTTP", "before", "µs")
    yield row(f"{rate}, to the older commit", rates, "after", "before", "per second")
    yield row(f"{rate} over HTTP, to the older commit over gRPC", rates, "after, HTTP", "before", "per second")
    yield row(f"{rate}, to Envoy's own filter jwt_authn", rates, "after", JWT_AUTHN, "per second")


def cold_start_rows(results):
    times, memory = results["milliseconds"], results["peak_megabytes"]

    def row(title, of, name, base):
        unit = "ms" if of is times else "MB"
        return Row("cold_start", title, ratios(of[name], of[base]), f"{min(of[name])} {unit}, {min(of[base])} {unit}")

    without = f"after, {JITTER}"
    yield row("first response, to the older commit", times, "after", "before")
    yield row("first response, to Node", times, "after", NODE)
    yield row(f"first response, {JITTER}, to Node", times, without, NODE)
    yield row("peak memory, to the older commit", memory, "after", "before")
    yield row("peak memory, to Node", memory, "after", NODE)
    yield row(f"peak memory, {JITTER}, to Node", memory, without, NODE)


def build_rows(results):
    for title in ("crates", "locked_crates"):
        for name, count in results.get(title, {}).items():
            if name.startswith("tower-cognito"):
                yield Row("build", f"{title.replace('_', ' ')}, {name}", [count])
    times = results.get("cpu_seconds", {})
    for name, base in [("tower-cognito", PEER), ("tower-cognito without reqwest", "tower-cognito")]:
        if {name, base} <= times.keys():
            more = f"{min(times[name])} s, {min(times[base])} s"
            yield Row("build", f"processor time, {name} to {base}", ratios(times[name], times[base]), more)


def load_rows(results):
    spent = {row["name"]: row["cpu_us_per_request"] for row in results["load"]}
    none = spent["without authorization"]
    others = [spent[name] for name in (PEER, "axum-jwt-auth")]
    on, off = spent["tower-cognito, cache on"], spent["tower-cognito, cache off"]
    yield Row("load", "processor time, cache on to no authorization", [on / none])
    yield Row("load", "processor time, cache off to the cheapest other crate", [off / min(others)])


def rows(results):
    """Yields the rows of all kinds that a file contains."""
    if "nanoseconds" in results:
        yield from before_rows(results, "nanoseconds")
    if "before" in results.get("instructions", [{}])[0]:
        yield from before_rows(results, "instructions")
    elif "instructions" in results:
        yield from count_rows(results)
    if "posts" in results:
        yield from posts_rows(results)
    if "requests_per_second" in results:
        yield from envoy_rows(results)
    if "milliseconds" in results:
        yield from cold_start_rows(results)
    if "crates" in results or "locked_crates" in results:
        yield from build_rows(results)
    if "load" in results:
        yield from load_rows(results)


# ---- Measuring -----------------------------------------------------------------------------------


def instructions(program, *args):
    """Returns the instructions of one call, by callgrind."""
    out = subprocess.run(
        ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured*",
         "--callgrind-out-file=/dev/null", program, "count", *args],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    found = re.search(r"Collected : (\d+)", out.stderr)
    if out.returncode or not found:
        sys.exit(f"{out.stderr}\nvalgrind failed: {program} count {' '.join(args)}")
    return int(found[1]) // 200


def names(program):
    out = subprocess.run([program, "rows"], check=True, capture_output=True, text=True)
    return out.stdout.splitlines()


def counts(program):
    needed = {"cached token", TRY_VERIFY, THROUGH, *BEYOND, *BEYOND.values()}
    found = [
        {"name": name, "count": instructions(program, name)}
        for name in names(program)
        if name in needed
    ]
    return {"instructions": found}


def compared_counts(program):
    builds = ("before", "after")
    return {
        "instructions": [
            {"name": name} | {build: instructions(program, build, name) for build in builds}
            for name in names(program)
        ]
    }


def compared_times(program, runs, rounds):
    found = {}
    for _ in range(int(runs)):
        out = subprocess.run([program, "time", rounds], check=True, capture_output=True, text=True)
        for line in out.stdout.splitlines():
            name, before, after = line.split("\t")
            row = found.setdefault(name, {"name": name, "before": [], "after": []})
            row["before"].append(int(before))
            row["after"].append(int(after))
    return {"rounds": int(rounds), "nanoseconds": list(found.values())}


def compared_posts(program, runs, rounds):
    found = {}
    for _ in range(int(runs)):
        out = subprocess.run([program, rounds], check=True, capture_output=True, text=True)
        for line in out.stdout.splitlines():
            name, *values = line.split("\t")
            builds = found.setdefault(name, {})
            for build, pair in (("before", values[:2]), ("after", values[2:])):
                of = builds.setdefault(build, {"microseconds": [], "lost": []})
                of["microseconds"].append(int(pair[0]))
                of["lost"].append(int(pair[1]))
    return {"rounds": int(rounds), "requests_per_round": 50, "posts": found}


def printed_by(script):
    """Runs a script of bash in the top folder, and returns the last line that it prints."""
    out = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return out.stdout.splitlines()[-1]


def report(results, args):
    """Prints the rows of these results, and writes them if the arguments name a file."""
    show(rows(results))
    if "--json" in args:
        write(args[args.index("--json") + 1], results)


def git(*args):
    out = subprocess.run(["git", *args], cwd=ROOT, check=True, capture_output=True, text=True)
    return out.stdout.strip()


def write(path, results):
    """Adds the results to those of the same commit in this file, with the commit and the machine."""
    path = pathlib.Path(path)
    changed = git("status", "--porcelain", "--", "src", "benches", "Cargo.lock", ":!benches/results")
    lscpu = subprocess.run(["lscpu"], env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True)
    cpu = dict(line.split(":", 1) for line in lscpu.stdout.splitlines() if ":" in line)
    version = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()
    uname = os.uname()
    begin = {
        "commit": git("rev-parse", "--short=7", "HEAD") + ("+changes" if changed else ""),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": f"{cpu.get('Model name', 'unknown').strip()}, {os.cpu_count()} cores",
        "system": f"{uname.sysname} {uname.machine}, {' '.join(version[:2])}",
    }
    if path.exists():
        old = json.loads(path.read_text())
        if isinstance(old, dict) and old.get("commit") == begin["commit"]:
            results = old | results
    path.write_text(json.dumps(begin | {k: v for k, v in results.items() if k not in begin}, indent=2) + "\n")


def main(args):
    file = None
    if "--json" in args:
        at = args.index("--json")
        file = args[at + 1]
        args = args[:at] + args[at + 2 :]
    match args:
        case ["counts", program]:
            results, is_counted = counts(program), True
        case ["compare", program, "count"]:
            results, is_counted = compared_counts(program), True
        case ["compare", program, "time", runs, rounds]:
            results, is_counted = compared_times(program, runs, rounds), False
        case ["compare", program, "posts", runs, rounds]:
            results, is_counted = compared_posts(program, runs, rounds), False
        case ["build" | "crates" as kind]:
            # Lines of build.sh: name, crates, and the processor time of each run.
            is_counted = kind == "crates"
            title = "locked_crates" if is_counted else "crates"
            results = {title: {}}
            for line in sys.stdin:
                name, crates, *seconds = line.rstrip("\n").split("\t")
                results[title][name] = int(crates)
                if seconds:
                    times = results.setdefault("cpu_seconds", {})
                    times.setdefault(name, []).append(float(seconds[0]))
                print(line.rstrip("\n").expandtabs(34), flush=True)
        case ["load" | "cost" | "neighbours" as kind, source]:
            results, is_counted = {kind: json.loads(pathlib.Path(source).read_text())}, False
        case ["show", *files]:
            for name in files:
                print(f"== {name}")
                show(rows(json.loads(pathlib.Path(name).read_text())))
            return 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    is_met = show(rows(results))
    if file:
        write(file, results)
    return 1 if is_counted and not is_met else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
