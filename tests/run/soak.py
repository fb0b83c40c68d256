#!/usr/bin/env python3
"""Runs the quickstart under load, with 90 % valid and 10 % hostile requests, while its issuer is down,
answers garbage, is slow, rotates its key and removes the old one.

SOAK_SECONDS  the duration, default 20; some phases take a few seconds more. The long run is 300
PROFILE       the cargo profile of both programs

It checks each answer: status, challenge and body. The memory of the server must not grow. It uses the
quickstart because the example `axum` has its own issuer and does not listen on a port.
"""
# ci: all computes: the lines with FAIL say which kind of request got which answer; SOAK_SECONDS=300 is the long run

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from harness import INVALID, ITEMS, Client, Issuer, Service, bearer, build, debian, main
from harness import start, temporary_folder, wait_until
from rejections import get, good_requests, hostile_requests

HERE = Path(__file__).parent
CONNECTIONS = 8
TOKENS = 50
INTERVAL = 10
# The maximum time until a new key is accepted while unknown key IDs spend the budget (30 s), and
# until a removed key is rejected (one interval); each plus 5 s for the fetch.
NEW_KEY_WITHIN = 35
OLD_KEY_WITHIN = INTERVAL + 5
# The allowed growth of the memory of the server after the first third.
GROWTH = 4 << 20


class Load:
    """Runs wrk, which sends the requests of the plan."""

    def __init__(self, folder, service):
        self.folder = folder
        self.service = service
        self.names = []
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait()

    def send(self, name, requests):
        """Switches to these requests and waits until every thread uses them."""
        with open(self.folder / "plan.part", "wb") as plan:
            plan.write(name.encode() + b"\n")
            for kind, text, answer in requests:
                sizes = f"{len(text)} {len(answer.body)}"
                line = f"{kind} {answer.status} {sizes} {answer.challenge}\n"
                plan.write(line.encode() + text + answer.body)
        os.rename(self.folder / "plan.part", self.folder / "plan")
        if self.names and not wait_until(self.is_past_the_last, 20):
            raise RuntimeError(f"wrk does not continue to {name}")
        self.names.append(name)
        if not self.process:
            number = str(CONNECTIONS)
            options = ["--threads", number, "--connections", number, "--timeout", "20s"]
            script = ["--duration", "24h", "--script", HERE / "soak.lua"]
            self.process = start(
                debian("wrk"),
                *options,
                *script,
                f"http://{self.service.address}",
                env={**os.environ, "SOAK_FOLDER": str(self.folder)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def is_past_the_last(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"wrk has ended: {self.process.stdout.read()}")
        return len(list(self.folder.glob(f"{self.names[-1]}.*.results"))) == CONNECTIONS

    def end(self):
        """Returns the output of wrk."""
        self.send("end", [])
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=20)[0]

    def results(self):
        """Returns the counts of each phase by kind, time and wrong answer."""
        phases = {}
        for name in self.names[:-1]:
            phases[name] = {what: Counter() for what in ("kind", "time", "wrong")}
            for path in self.folder.glob(f"{name}.*.results"):
                for line in path.read_text(errors="replace").splitlines():
                    what, number, key = line.split(" ", 2)
                    phases[name][what][key] += int(number)
        return phases


class Memory:
    """Samples the memory and the open files of the server."""

    def __init__(self, service):
        self.folder = Path(f"/proc/{service.process.pid}")
        self.samples = []

    def sample(self):
        pages = int((self.folder / "statm").read_text().split()[1])
        files = len(list((self.folder / "fd").iterdir()))
        self.samples.append((time.monotonic(), pages * os.sysconf("SC_PAGESIZE"), files))

    def most(self, which, begin, end):
        return max(sample[which] for sample in self.samples if begin <= sample[0] <= end)


def percentiles(times):
    """Returns the count and the distribution of a histogram in microseconds."""
    total = sum(times.values())
    row, seen, shares = [], 0, [0.5, 0.9, 0.99, 0.999, 0.9999]
    for value in sorted(times):
        seen += times[value]
        while shares and seen >= shares[0] * total:
            row.append(value)
            shares.pop(0)
    return total, [*row, max(times)]


def print_latencies(phases):
    columns = ["p50", "p90", "p99", "p99.9", "p99.99", "max"]
    print(f"\n{'milliseconds':22} {'answers':>9}" + "".join(f"{name:>9}" for name in columns))
    for kind in ("good", "hostile"):
        total = Counter()
        for name, results in [*phases.items(), ("in total", None)]:
            times = total
            if results:
                own = [key.split() for key in results["time"]]
                times = Counter(
                    {int(float(us)): results["time"][f"{k} {us}"] for k, us in own if k == kind}
                )
                total += times
            number, row = percentiles(times)
            row = "".join(f"{value / 1000:9.2f}" for value in row)
            print(f"{kind + ', ' + name:22} {number:9}{row}")


def script(checks):
    seconds = float(os.environ.get("SOAK_SECONDS", "20"))
    debian("wrk")
    programs = build("issuer", "quickstart")
    with temporary_folder() as folder, Issuer(programs["issuer"]) as issuer:
        interval = {"COGNITO_REFRESH_INTERVAL_SECONDS": str(INTERVAL)}
        with Service(programs["quickstart"], issuer, folder, "server", **interval) as service:
            if not service.becomes_ready(60):
                raise RuntimeError(service.log.read_text())
            soak(checks, seconds, issuer, service, folder)


def soak(checks, seconds, issuer, service, folder):
    old = [issuer.token() for _ in range(TOKENS)]
    memory = Memory(service)
    begun = time.monotonic()
    prober = Client(service.address)

    def hold(share, until=lambda: True, within=60):
        """Waits for this share of the time and until a condition is true. Returns the time until then."""
        begin = time.monotonic()
        happened = None
        while happened is None or time.monotonic() - begin < share * seconds:
            memory.sample()
            if happened is None and until():
                happened = time.monotonic() - begin
            if happened is None and time.monotonic() - begin > within:
                return None
            time.sleep(0.05)
        return happened

    def asked_again(count):
        before = issuer.fetches()
        return lambda: issuer.fetches() >= before + count

    def probe(token):
        status, body = prober.get(token)
        return (status, body) if status == 200 else status

    hostile = hostile_requests(issuer, old[0])
    usual = good_requests(old) + hostile
    with Load(folder, service) as load:
        load.send("steady", usual)
        hold(0.15)
        for name, fault, part, times in (
            ("down", "down", 0.15, 2), ("garbage", "garbage", 0.10, 1), ("slow", "slow 2000", 0.10, 1)
        ):
            issuer.tell(f"fault {fault}")
            load.send(name, usual)
            asked = hold(part, asked_again(times))
            checks.that(asked is not None, f"during the fault {name}, the issuer is asked again")

        issuer.tell("fault slow 300")
        load.send("rotating", usual)
        issuer.tell("rotate")
        new = [issuer.token() for _ in range(TOKENS)]
        accepted = hold(0.10, lambda: probe(new[0]) == (200, ITEMS), NEW_KEY_WITHIN)
        checks.that(
            accepted is not None,
            f"the new key is accepted within {NEW_KEY_WITHIN} s of the rotation, under this load",
        )
        half = TOKENS // 2
        load.send("rotated", good_requests(old[:half] + new[:half]) + hostile)
        hold(0.10)
        issuer.tell("fault none")
        # Stop sending tokens of the old key until it must be rejected.
        usual = good_requests(new) + hostile_requests(issuer, new[0])
        load.send("withdrawing", usual)
        issuer.tell("withdraw")
        rejected = hold(0.10, lambda: probe(old[0]) == 401, OLD_KEY_WITHIN)
        checks.that(
            rejected is not None,
            f"the old key is rejected within {OLD_KEY_WITHIN} s of its withdrawal",
        )
        withdrawn = [("withdrawn-key", get(bearer(token)), INVALID) for token in old]
        load.send("withdrawn", usual + withdrawn)
        hold(0.20)
        ended = time.monotonic()
        said = load.end()
        phases = load.results()

    kinds = {kind for kind, *_ in usual + withdrawn}
    total = {what: sum((p[what] for p in phases.values()), Counter()) for what in ("kind", "wrong")}
    answers = sum(total["kind"].values())
    requests = [line.split()[0] for line in said.splitlines() if " requests in " in line]
    checks.equal("wrk counts the answers that were checked", [str(answers)], requests)
    checks.that("Socket errors" not in said, "no request is without an answer", said)
    wrong = [f"{number} x {text}" for text, number in total["wrong"].most_common(5)]
    checks.equal("each answer is the right one, with its challenge and its body", [], wrong)
    checks.equal("each kind of request was sent", kinds, set(total["kind"]))
    share = 100 * total["kind"]["good"] / answers
    checks.that(88 < share < 92, "nine of ten requests are good ones", f"{share:.1f} %")

    third = begun + (ended - begun) / 3
    before, after = memory.most(1, begun, third), memory.most(1, third, ended)
    grown = after - before
    limit = GROWTH >> 20
    checks.that(
        grown < GROWTH,
        f"after the first third the memory of the server grows by less than {limit} MiB",
        f"from {before >> 10} to {after >> 10} KiB",
    )
    files, most = memory.most(2, begun, third), memory.most(2, third, ended)
    checks.that(
        most < files + CONNECTIONS,
        f"and it holds fewer than {CONNECTIONS} files more",
        f"from {files} to {most}",
    )
    log = service.log.read_text(errors="replace")
    checks.that("panicked" not in log and " ERROR " not in log, "no panic, and no error in the log")
    checks.equal("SIGTERM ends it", 0, service.stop())

    print_latencies(phases)
    length = ended - begun
    checks.figure("answers", f"{answers} in {length:.0f} s, {answers / length:.0f} a second")
    checks.figure("kinds of hostile requests", f"{len(kinds) - 1}, {100 - share:.1f} % of all")
    checks.figure("fetches of the keys", issuer.fetches())
    if accepted is not None and rejected is not None:
        checks.figure("new key accepted after", f"{accepted:.1f} s")
        checks.figure("old key rejected after", f"{rejected:.1f} s")
    memory = f"{before / 2**20:.1f} MiB at most in the first third, {after / 2**20:.1f} after it"
    checks.figure("memory", memory)


if __name__ == "__main__":
    main(script)
