#!/usr/bin/env python3
"""Runs twenty processes of the quickstart and one issuer. Checks how often they fetch its keys, and what
their clients see while it rotates keys, is slow or down, and while others send unknown key IDs.

REPLICAS  the number of processes, default 20

The spread of refreshes over hours is simulated in tests/it; here the interval is the minimum.
"""
# ci: all waits: the lines with FAIL say what was expected; tests/it simulates the promises

import base64
import http.client
import math
import multiprocessing
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from harness import ITEMS, Client, Issuer, Service, build, main, temporary_folder, wait_until

REPLICAS = int(os.environ.get("REPLICAS", "20"))
# The maximum time that a request waits for a key, and that a fetch takes.
MAX_WAIT = 1
FETCH = 5
# The budget for unknown key IDs: two fetches, then one in 30 s.
BUDGET, REFILL = 2, 30
# The longest pause between two attempts without keys.
BACKOFF_WITHOUT_KEYS = 5
SHORTEST_INTERVAL = 10
# The pause between two rounds of valid requests to one replica.
PAUSE = 0.1


class Caller(threading.Thread):
    """Calls one replica with every currently valid token and checks each answer."""

    def __init__(self, address, tokens):
        super().__init__(daemon=True)
        self.address = address
        self.tokens = tokens
        self.is_over = threading.Event()
        self.answered = 0
        self.rejected = []
        # The time of the first answer to each token.
        self.first = {}
        self.slowest = 0

    def run(self):
        client = Client(self.address)
        while not self.is_over.is_set():
            for token in self.tokens:
                begin = time.monotonic()
                try:
                    answer = client.get(token)
                except (OSError, http.client.HTTPException) as error:
                    answer = repr(error)
                    client = Client(self.address)
                took = time.monotonic() - begin
                self.slowest = max(self.slowest, took)
                self.answered += 1
                if answer != (200, ITEMS):
                    self.rejected.append(answer)
                self.first.setdefault(token, took)
            self.is_over.wait(PAUSE)

    def end(self):
        self.is_over.set()
        self.join()


class Fleet:
    """Replicas that trust one issuer, each with its own caller."""

    def __init__(self, programs, folder, name, **settings):
        self.programs = programs
        self.folder = folder
        self.name = name
        self.settings = settings
        self.stack = ExitStack()
        self.callers = []

    def __enter__(self):
        quickstart, issuer = self.programs
        try:
            self.issuer = self.stack.enter_context(Issuer(issuer))
            self.services = [self.start(f"{self.name}-{number}") for number in range(REPLICAS)]
            for service in self.services:
                if not service.becomes_ready(60):
                    raise RuntimeError(f"it does not start: {service.log.read_text()}")
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        for caller in self.callers:
            caller.is_over.set()
        self.stack.close()

    def start(self, name, **settings):
        settings = {**self.settings, **settings}
        service = Service(self.programs[0], self.issuer, self.folder, name, **settings)
        return self.stack.enter_context(service)

    def call(self, *tokens):
        """Starts to call every replica with these tokens."""
        if not self.callers:
            self.callers = [Caller(service.address, tokens) for service in self.services]
            for caller in self.callers:
                caller.start()
        for caller in self.callers:
            caller.tokens = tokens

    def all_have(self, token):
        return wait_until(lambda: all(token in caller.first for caller in self.callers), 30)

    def first_answers(self, token):
        """Returns the times, the slowest first."""
        return sorted((caller.first.get(token, math.inf) for caller in self.callers), reverse=True)

    def rounds(self, number):
        """Waits until every called replica has answered this many more times for every token."""
        callers = [caller for caller in self.callers if not caller.is_over.is_set()]
        wanted = [caller.answered + number * len(caller.tokens) for caller in callers]
        is_done = lambda: all(c.answered >= least for c, least in zip(callers, wanted))
        if not wait_until(is_done, 60):
            raise RuntimeError("a replica no longer answers")

    def end_calls(self):
        """Returns the number of valid requests, and the answers to those that were not served."""
        for caller in self.callers:
            caller.end()
        rejected = [answer for caller in self.callers for answer in caller.rejected]
        return sum(caller.answered for caller in self.callers), rejected

    def stop(self):
        """Returns the exit codes, and the logs that contain a panic."""
        for service in self.services:
            service.process.terminate()
        codes = Counter(service.exit_code(10) for service in self.services)
        logs = [service.log.read_text(errors="replace") for service in self.services]
        return codes, [log for log in logs if "panicked" in log]

    def each(self, work):
        """Runs `work(service)` for all replicas concurrently."""
        with ThreadPoolExecutor(REPLICAS) as pool:
            return list(pool.map(work, self.services))


def until_status(token, status, others, within):
    """Calls a replica until it answers with this status, and returns the time. Before, it may answer with
    one of the others, but never afterwards."""

    def ask(service):
        client = Client(service.address)
        begin = time.monotonic()
        while (answered := client.get(token)[0]) != status:
            if answered not in others or time.monotonic() - begin > within:
                return math.inf
            time.sleep(0.1)
        took = time.monotonic() - begin
        return took if client.get(token)[0] == status else math.inf

    return ask


def milliseconds(seconds):
    return f"{seconds * 1000:.0f} ms"


def rotations(checks, programs, folder):
    """The default interval: all fetches happen at the start or for an unknown key."""
    figures = []
    begin = time.monotonic()
    with Fleet(programs, folder, "rotations", COGNITO_CONNECT_TIMEOUT_SECONDS="60") as fleet:
        issuer = fleet.issuer
        figures.append(f"{REPLICAS} replicas start within {time.monotonic() - begin:.1f} s")
        checks.equal("rotations: at the start each asks once", REPLICAS, issuer.fetches())
        tokens = [issuer.token()]
        fleet.call(*tokens)
        fleet.rounds(5)
        checks.equal("rotations: known keys cause no fetch", REPLICAS, issuer.fetches())

        for turn, delay in ((1, 0), (2, 0.3)):
            what = f"an issuer that takes {milliseconds(delay)}" if delay else "a quick issuer"
            if delay:
                issuer.tell(f"fault slow {int(delay * 1000)}")
            issuer.tell("rotate")
            tokens.append(issuer.token())
            fleet.call(*tokens)
            fleet.all_have(tokens[-1])
            took = fleet.first_answers(tokens[-1])
            checks.that(
                delay <= took[-1] and took[0] < delay + MAX_WAIT,
                f"rotations: with {what} the first token of a new key waits for one fetch",
                f"{took[-1]:.3f} to {took[0]:.3f} s",
            )
            middle, most = milliseconds(took[len(took) // 2]), milliseconds(took[0])
            figures.append(
                f"the first token of a new key, {what}: {middle} in the middle, {most} at most"
            )
            fleet.rounds(3)
            expected = REPLICAS * (1 + turn)
            checks.equal(
                f"rotations: with {what} each asks once more", expected, issuer.fetches()
            )

        issuer.tell("fault down")
        restart(checks, fleet, figures)
        answered, rejected = fleet.end_calls()
        checks.equal(f"rotations: all of {answered} good requests are served", [], rejected[:3])
        codes, panics = fleet.stop()
        checks.equal("rotations: SIGTERM ends each", Counter({0: REPLICAS}), codes)
        checks.equal("rotations: no panic", [], panics)
    return figures


def restart(checks, fleet, figures):
    """One replica is restarted while the issuer is down, and all others keep serving."""
    issuer, ended = fleet.issuer, fleet.services[0]
    answered, rejected = fleet.callers[0].answered, fleet.callers[0].rejected
    fleet.callers[0].end()
    code = ended.stop()
    checks.equal("restart: SIGTERM ends it", 0, code)
    waiting = fleet.start("restart-waiting", address=ended.address)
    hasty = fleet.start("restart-hasty", COGNITO_CONNECT_TIMEOUT_SECONDS="2")
    checks.equal("restart: while the issuer is down, it gives up in time", 1, hasty.exit_code(10))
    said = hasty.log.read_text()
    checks.that(
        f"no keys from {issuer.jwks_url}: the response has status 503, expected 200" in said,
        "restart: and says why",
        said,
    )
    try:
        answer = Client(ended.address, timeout=1).get(issuer.token())
    except OSError as error:
        answer = type(error).__name__
    checks.that(
        not waiting.is_ready() and answer in ("TimeoutError", "ConnectionRefusedError"),
        "restart: a replica without keys is not ready and serves no request",
        answer,
    )
    fleet.rounds(5)
    issuer.tell("fault none")
    begin = time.monotonic()
    is_ready = waiting.becomes_ready(60)
    took = time.monotonic() - begin
    limit = BACKOFF_WITHOUT_KEYS + FETCH
    checks.that(
        is_ready and took < limit,
        f"restart: once the issuer is back, it is ready within {limit} s",
        f"{took:.1f} s: {waiting.log.read_text()}",
    )
    figures.append(f"restarted in an outage, ready {took:.1f} s after its end")
    fleet.services[0] = waiting
    again = Caller(ended.address, fleet.callers[1].tokens)
    again.answered, again.rejected = answered, rejected
    again.start()
    fleet.callers[0] = again
    fleet.rounds(3)


def unknown(token, number):
    """Returns the token with a new, unknown key ID."""
    header = base64.urlsafe_b64encode(b'{"kid":"unknown-%d","alg":"RS256"}' % number)
    return header.rstrip(b"=").decode() + "." + token.split(".", 1)[1]


def storm_at(address, token, number, is_over, answers):
    client = Client(address)
    while not is_over.is_set():
        number += 1
        status, body = client.get(unknown(token, number))
        answers[(status, b'"invalid_token"' in body)] += 1


def storm_on(addresses, token, is_over, results):
    """Runs in a separate process, so that it does not slow the callers down."""
    answers = [Counter() for _ in addresses]
    threads = [
        threading.Thread(target=storm_at, args=(address, token, n * 10**9, is_over, answers[n]))
        for n, address in enumerate(addresses)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(sum(answers, Counter()))


def storm(checks, programs, folder):
    """Sends unknown key IDs to all replicas, with a rotation in between."""
    context = multiprocessing.get_context("spawn")
    with Fleet(programs, folder, "storm") as fleet:
        issuer = fleet.issuer
        token = issuer.token()
        fleet.call(token)
        fleet.rounds(3)
        is_over, results = context.Event(), context.Queue()
        addresses = [service.address for service in fleet.services]
        arguments = (addresses, token, is_over, results)
        begin = time.monotonic()
        process = context.Process(target=storm_on, args=arguments, daemon=True)
        process.start()
        allowed = lambda: REPLICAS * (1 + BUDGET + int((time.monotonic() - begin) / REFILL))
        spent = REPLICAS * (1 + BUDGET)
        wait_until(lambda: issuer.fetches() >= spent, 20)
        fleet.rounds(20)
        fetches = issuer.fetches()
        checks.that(
            spent <= fetches <= allowed(),
            f"storm: each asks {BUDGET} times, and no more",
            f"{fetches - REPLICAS} fetches of {REPLICAS} replicas",
        )

        issuer.tell("rotate")
        limit = REFILL + FETCH
        took = sorted(fleet.each(until_status(issuer.token(), 200, [401], limit)))
        checks.that(
            took[-1] < limit,
            f"storm: a new key is accepted by all within {limit} s even so",
            f"{took[0]:.1f} to {took[-1]:.1f} s",
        )
        is_over.set()
        answers = results.get(timeout=30)
        process.join()
        length = time.monotonic() - begin
        fetches = issuer.fetches()
        checks.that(
            fetches <= allowed(),
            f"storm: and once more in {REFILL} s",
            f"{fetches - REPLICAS} fetches of {REPLICAS} replicas in {length:.0f} s",
        )
        checks.equal("storm: each unknown key ID is 401", {(401, True)}, set(answers))
        answered, rejected = fleet.end_calls()
        checks.equal(f"storm: all of {answered} good requests are served", [], rejected[:3])
        slowest = max(caller.slowest for caller in fleet.callers)
        codes, panics = fleet.stop()
        checks.equal("storm: SIGTERM ends each", Counter({0: REPLICAS}), codes)
        checks.equal("storm: no panic", [], panics)
    number = sum(answers.values())
    return [
        f"storm: {number} unknown key IDs in {length:.0f} s, {fetches - REPLICAS} fetches for them",
        f"storm: a good request takes {milliseconds(slowest)} at most",
        f"storm: a new key is accepted after {took[0]:.1f} to {took[-1]:.1f} s",
    ]


class Timeline(threading.Thread):
    """Returns the times of the requests to the issuer."""

    def __init__(self, issuer):
        super().__init__(daemon=True)
        self.issuer = issuer
        self.times = []
        self.is_over = threading.Event()

    def run(self):
        # Ignore earlier requests.
        known = self.issuer.fetches()
        while not self.is_over.wait(0.02):
            fetches = self.issuer.fetches()
            self.times += [time.monotonic()] * (fetches - known)
            known = fetches

    def between(self, begin, end):
        return [moment for moment in self.times if begin <= moment < end]


def busiest(times, width):
    """Returns the maximum number of these sorted times within this many seconds."""
    return max((sum(first <= t < first + width for t in times) for first in times), default=0)


def cycles(checks, programs, folder):
    """The shortest interval: refresh cycles, a removed key, and an outage."""
    interval = SHORTEST_INTERVAL
    settings = {"COGNITO_REFRESH_INTERVAL_SECONDS": str(interval)}
    with Fleet(programs, folder, "cycles", **settings) as fleet:
        issuer = fleet.issuer
        begin = time.monotonic()
        timeline = Timeline(issuer)
        timeline.start()
        old = issuer.token()
        fleet.call(old)
        # Three pauses of eight to ten seconds, and the rest of the fourth.
        time.sleep(3 * interval + 1)
        end = time.monotonic()
        times = timeline.between(begin, end)
        least, most = 3 * REPLICAS, 4 * REPLICAS
        checks.that(
            least <= len(times) <= most,
            f"cycles: each asks once in {0.8 * interval:.0f} to {interval} s",
            f"{len(times)} fetches, expected {least} to {most}",
        )
        # The fetches of the first cycle are within two seconds, those of the third within six.
        first = busiest(timeline.between(begin, begin + 1.2 * interval), 1)
        third = busiest(timeline.between(begin + 2.2 * interval, end), 1)
        checks.that(
            third <= 0.8 * REPLICAS,
            "cycles: after three of them the replicas have drifted apart",
            f"{third} of {REPLICAS} within a second",
        )

        issuer.tell("rotate")
        new = issuer.token()
        fleet.call(old, new)
        fleet.all_have(new)
        fleet.call(new)
        fleet.rounds(2)
        issuer.tell("withdraw")
        limit = interval + FETCH
        took = sorted(fleet.each(until_status(old, 401, [200], limit)))
        checks.that(
            took[-1] < limit,
            f"cycles: a withdrawn key is rejected by all within {limit} s",
            f"{took[0]:.1f} to {took[-1]:.1f} s",
        )
        issuer.tell("fault down")
        down = time.monotonic()
        time.sleep(interval + 2)
        attempts = len(timeline.between(down, time.monotonic()))
        issuer.tell("fault none")
        # The first one, and the second to fifth after pauses of at least 0.5, 1, 2 and 4 s.
        checks.that(
            REPLICAS <= attempts <= 5 * REPLICAS,
            "cycles: while the issuer is down, each asks, and asks less and less often",
            f"{attempts} attempts of {REPLICAS} replicas",
        )

        timeline.is_over.set()
        answered, rejected = fleet.end_calls()
        checks.equal(f"cycles: all of {answered} good requests are served", [], rejected[:3])
        codes, panics = fleet.stop()
        checks.equal("cycles: SIGTERM ends each", Counter({0: REPLICAS}), codes)
        checks.equal("cycles: no panic", [], panics)
    rate = len(times) / (end - begin)
    return [
        f"cycles: {rate:.2f} fetches a second, an interval of {interval} s",
        f"cycles: in one second {first} of {REPLICAS} in the first cycle, {third} in the third",
        f"cycles: a withdrawn key is rejected after {took[0]:.1f} to {took[-1]:.1f} s",
        f"cycles: {attempts} attempts while the issuer was down for {interval + 2} s",
    ]


def script(checks):
    built = build("quickstart", "issuer")
    programs = built["quickstart"], built["issuer"]
    with temporary_folder() as folder:
        figures = {}

        def run(part):
            try:
                figures[part] = part(checks, programs, folder)
            except Exception as error:
                checks.that(False, f"{part.__name__}: it comes to its end", repr(error))

        run(rotations)
        # Most of the time is waiting.
        both = [threading.Thread(target=run, args=[p], daemon=True) for p in (storm, cycles)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    for part in (rotations, storm, cycles):
        for figure in figures.get(part, []):
            checks.figure(figure)


if __name__ == "__main__":
    main(script)
