"""The issuer and the quickstart as processes, and the lines that a check prints, for the scripts
beside this file."""

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
        """`actual` is printed where it does not hold."""
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
    """Ends the processes then, too, whatever thread has started them or waits for them."""

    def stop(number, _):
        for children in Path("/proc/self/task").glob("*/children"):
            for process in children.read_text().split():
                os.kill(int(process), signal.SIGKILL)
        sys.exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def wait_until(condition, within, pause=0.02):
    """Whether it became true in this time."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def environment(**settings):
    """That of the caller, without settings of the programs, and with these."""
    own = ("COGNITO_", "QUICKSTART_", "ISSUER")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    # A line for each refusal would be most of what a run under load does.
    return {**kept, "RUST_LOG": "info", **settings}


class Issuer:
    """The stand-in for Cognito, which does what it is told on its standard input."""

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
        """Good for an hour, with the scopes of the two routes, unless the claims say otherwise."""
        claims = {"scope": "activity/* demo-dev/read", **claims}
        return self.tell(f"token {client} {json.dumps(claims)}")

    def fetches(self):
        return int(self.tell("fetches"))


class Service:
    """A quickstart that trusts this issuer. What it prints goes into files of this folder."""

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
        """It prints its URLs when it has keys and answers."""
        found = re.search(r"^ACTIVITY_URL=http://([^/]+)/activity$", self.output.read_text(), re.M)
        if found:
            self.address = found[1]
        return found is not None

    def becomes_ready(self, within):
        is_settled = lambda: self.is_ready() or self.process.poll() is not None
        return wait_until(is_settled, within) and self.is_ready()

    def stop(self):
        """The exit code after SIGTERM, within 10 s."""
        self.process.terminate()
        return self.exit_code(10)

    def exit_code(self, within):
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            return f"it still runs after {within} s"


class Client:
    """One connection to a service, kept open."""

    def __init__(self, address, timeout=20):
        self.connection = http.client.HTTPConnection(address, timeout=timeout)

    def get(self, token, path="/item"):
        """Status and body."""
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        response = self.connection.getresponse()
        return response.status, response.read()

    def close(self):
        self.connection.close()
