"""Runs the issuer and the quickstart as processes, and prints the results of checks, for the scripts in
this folder."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

CLIENT_ID = "5a1b2c3d4e5f6g7h8i9j0k1l2m"
ITEMS = b'[{"test": "hoge"}]'


class Checks:
    """Prints a line for each check, and counts them."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.lock = threading.Lock()

    def that(self, holds, what, actual=""):
        """Prints `actual` if the check fails."""
        with self.lock:
            if holds:
                self.passed += 1
                print(f"ok - {what}", flush=True)
            else:
                self.failed += 1
                print(f"FAIL - {what}: {actual}" if actual else f"FAIL - {what}", flush=True)
        return holds

    def equal(self, what, expected, actual):
        return self.that(expected == actual, what, f"expected {expected!r}, actual {actual!r}")

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed or not self.passed else 0)


def stop_at_signals():
    """Also stops the processes after a signal, regardless of the thread that started them."""

    def stop(number, _):
        for children in Path("/proc/self/task").glob("*/children"):
            for process in children.read_text().split():
                os.kill(int(process), signal.SIGKILL)
        sys.exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def wait_until(condition, within, pause=0.02):
    """Returns whether the condition became true in time."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def environment(**settings):
    """Returns the caller's environment without settings of the programs, plus these."""
    own = ("COGNITO_", "QUICKSTART_", "ISSUER")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    # Under load, logging each rejection would take most of the time.
    return {**kept, "RUST_LOG": "info", **settings}


class Issuer:
    """The stand-in for Cognito, controlled by its standard input."""

    def __init__(self, program):
        self.process = subprocess.Popen(
            [program],
            env=environment(ISSUER="127.0.0.1:0"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lock = threading.Lock()
        lines = [self.process.stdout.readline().strip().split("=", 1) for _ in range(3)]
        values = dict(line for line in lines if len(line) == 2)
        self.url = values["COGNITO_ISSUER"]
        self.jwks_url = values["COGNITO_JWKS_URL"]
        self.token_url = values["TOKEN_ENDPOINT_URL"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.kill()
        self.process.wait()

    def tell(self, line):
        with self.lock:
            print(line, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"the issuer does not obey: {line}: {answer}")
        return answer

    def token(self, client=CLIENT_ID, **claims):
        """Returns a token that is valid for an hour and has the scopes of both routes, except for the claims."""
        claims = {"scope": "activity/* demo-dev/read", **claims}
        return self.tell(f"token {client} {json.dumps(claims)}")

    def fetches(self):
        return int(self.tell("fetches"))


class Service:
    """A quickstart that trusts this issuer. Its output goes to files in this folder."""

    def __init__(self, program, issuer, folder, name, address="127.0.0.1:0", **settings):
        self.output = Path(folder, f"{name}.out")
        self.log = Path(folder, f"{name}.err")
        settings = {
            "COGNITO_ISSUER": issuer.url,
            "COGNITO_CLIENT_IDS": CLIENT_ID,
            "QUICKSTART_API": address,
            **settings,
        }
        with open(self.output, "wb") as out, open(self.log, "wb") as err:
            self.process = subprocess.Popen(
                [program],
                env=environment(**settings),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.address = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def is_ready(self):
        """Waits until it has keys and prints its URLs."""
        found = re.search(r"^ACTIVITY_URL=http://([^/]+)/activity$", self.output.read_text(), re.M)
        if found:
            self.address = found[1]
        return found is not None

    def becomes_ready(self, within):
        is_settled = lambda: self.is_ready() or self.process.poll() is not None
        return wait_until(is_settled, within) and self.is_ready()

    def stop(self):
        """Returns the exit code after SIGTERM, within 10 s."""
        self.process.terminate()
        return self.exit_code(10)

    def exit_code(self, within):
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            return f"it still runs after {within} s"


class Client:
    """A persistent connection to a service."""

    def __init__(self, address, timeout=20):
        self.connection = http.client.HTTPConnection(address, timeout=timeout)

    def get(self, token, path="/item"):
        """Returns status and body."""
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        response = self.connection.getresponse()
        return response.status, response.read()

    def close(self):
        self.connection.close()
