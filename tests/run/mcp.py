#!/usr/bin/env python3
"""Calls the tools of examples/mcp with the official SDK clients, pinned: those of npm, PyPI (versions 1 and
2) and crates.io.

Each client knows the URL, the issuer, its client ID and its secret. The files mcp/client.mjs, mcp/client.py
and examples/mcp/examples/rmcp_client.rs drive the SDKs. They read one command per line, `connect` or `call TOOL`,
and answer with a line of JSON: `result` or `error`, and the requests so far.

It prints a table (client, step, result), and compares it with the table of the page `mcp_and_grpc`.
"""
# ci: all waits: the lines with FAIL say which SDK stopped at which step; or npm and pip have to reach their registries

import concurrent.futures
import json
import re
import subprocess
import time

from harness import (
    ROOT,
    Issuer,
    NotAvailable,
    Program,
    build,
    cargo_build,
    environment,
    free_port,
    get,
    main,
    node,
    npm,
    pypi,
    start,
    temporary_folder,
    wait_until,
)

NODE_SDK = "@modelcontextprotocol/sdk@1.32.2"
PYTHON_SDKS = {1: "mcp==1.30.0", 2: "mcp==2.3.0"}
FOLDER = ROOT / "tests/run/mcp"
PAGE = ROOT / "src/docs/mcp_and_grpc.md"

SECRET = "not-a-secret-outside-this-test"
CALLER = "callerexample"  # may have mcp/call
ADMIN = "adminexample"  # may have mcp/call and mcp/admin
SHORT = "shortexample"  # may have both; its tokens expire soon
LIFETIME = 6

WORKS = "yes"


class Sdk:
    """A client program and the connection that it has."""

    def __init__(self, command, cwd, url, issuer, client_id, scope=""):
        settings = {
            "url": url,
            "issuer": issuer,
            "client_id": client_id,
            "secret": SECRET,
            "scope": scope,
        }
        self.process = start(
            *command,
            json.dumps(settings),
            cwd=cwd,
            env=environment(RUST_LOG="off", PYTHONWARNINGS="ignore"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def tell(self, command):
        try:
            print(command, file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline())
        except (ValueError, OSError):
            self.process.kill()
            return {"error": f"it ended: {self.process.stderr.read()[-500:]}", "requests": []}
        return answer

    def connect(self):
        return self.tell("connect")

    def call(self, tool):
        return self.tell(f"call {tool}")


class Server(Program):
    """An examples/mcp that trusts this issuer."""

    def __init__(self, program, issuer, folder, name, **settings):
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/mcp"
        ours = {
            "COGNITO_ISSUER": issuer.url,
            "COGNITO_CLIENT_IDS": f"{CALLER},{ADMIN},{SHORT}",
            "MCP_ADDRESS": f"127.0.0.1:{self.port}",
        }
        super().__init__(folder, name, program, **ours, **settings)


def sdks(checks, client):
    """Returns the command and the folder of each SDK that can be installed."""
    found = {}
    try:
        folder = npm(NODE_SDK)
        # An import is resolved from the folder of its file.
        program = folder / "client.mjs"
        program.write_bytes((FOLDER / "client.mjs").read_bytes())
        found[f"`{NODE_SDK}`"] = ([node() / "node", program], folder)
    except NotAvailable as error:
        checks.not_checked(NODE_SDK, error)
    for version, kind in [(2, "client"), (2, "session"), (1, "session")]:
        name = PYTHON_SDKS[version]
        try:
            python = pypi(name).python
        except NotAvailable as error:
            checks.not_checked(name, error)
            continue
        kinds = {"client": "Client", "session": "ClientSession"}
        found[f"`{name}`, `{kinds[kind]}`"] = ([python, FOLDER / "client.py", kind], ROOT)
    version = re.search(r'name = "rmcp"\nversion = "(.*)"', (ROOT / "Cargo.lock").read_text())[1]
    found[f"`rmcp@{version}`"] = ([client], ROOT)
    return found


def summary(answer):
    """Returns the cell of the table for an answer."""
    if "result" in answer:
        return WORKS
    error = answer["error"]
    for status, names in {
        "503": ["503", "temporarily_unavailable"],
        "403": ["403", "insufficient_scope", "Insufficient scope"],
        "401": ["401", "Auth required", "Unauthorized"],
        "`invalid_grant`": ["invalid_grant"],
        "`invalid_scope`": ["invalid_scope"],
    }.items():
        if any(name in error for name in names):
            return f"stops: {status}"
    return f"stops: `{error.split(': ', 1)[-1][:60]}`"


def flow(checks, name, answer):
    """Checks that the client found everything from the rejection."""
    steps = "\n".join(answer["requests"])
    in_order = [
        r"^POST /mcp 401",
        r"/\.well-known/oauth-protected-resource/mcp 200|GET metadata ProtectedResourceMetadata",
        r"/us-east-1_TestIssuer/\.well-known/openid-configuration 200|GET metadata Protected",
        r"POST /oauth2/token 200",
        r"POST /mcp 200 (initialize|server/discover)",
    ]
    position = 0
    for step in in_order:
        found = re.compile(step, re.M).search(steps, max(0, position - 1))
        if not checks.that(found is not None, f"{name}: {step}", f"\n{steps}"):
            return
        position = found.start() + 1


def walk(checks, name, sdk, server, issuer, outage):
    """Returns the result of each step."""

    def client(client_id, scope, url=server.url):
        return Sdk(*sdk, url, issuer.url, client_id, scope)

    def calls(client_id, scope, tools, wait=0):
        """Calls the tools in one session, and returns the last answer. It waits before the last call."""
        with client(client_id, scope) as session:
            answer = session.connect()
            for tool in tools:
                if "error" in answer:
                    return answer
                if tool is tools[-1]:
                    time.sleep(wait)
                answer = session.call(tool)
            return answer

    results = {}
    with client(CALLER, "") as session:
        answer = session.connect()
        flow(checks, name, answer)
        if "result" in answer:
            answer = session.call("whoami")
            checks.equal(f"{name}: the tool sees the caller", f"machine {CALLER}", answer.get("result"))
        results["first call"] = answer
    tools = ["whoami", "list_callers"]
    results["step-up"] = calls(ADMIN, "mcp/call", tools)
    results["all scopes at once"] = calls(ADMIN, "mcp/call mcp/admin", tools)
    results["scope not allowed"] = calls(CALLER, "mcp/call", tools)
    results["expired token"] = calls(SHORT, "mcp/call", ["whoami", "whoami"], LIFETIME + 1)
    with client(CALLER, "mcp/call", outage.url) as session:
        results["no keys"] = session.connect()
    return results


def markdown(table):
    """Yields the lines of the table."""
    steps = list(next(iter(table.values())))
    yield "| client | " + " | ".join(steps) + " |"
    yield "| --- |" + " --- |" * len(steps)
    for name, results in table.items():
        yield f"| {name} | " + " | ".join(summary(answer) for answer in results.values()) + " |"


def script(checks):
    programs = build("issuer")
    for _, name, path in cargo_build("-p", "mcp", "--bin", "mcp", "--example", "rmcp_client"):
        programs[name] = path
    found = sdks(checks, programs["rmcp_client"])
    with temporary_folder() as folder, Issuer(programs["issuer"]) as issuer:
        issuer.tell(f"client {CALLER} {SECRET} mcp/call")
        issuer.tell(f"client {ADMIN} {SECRET} mcp/call mcp/admin")
        issuer.tell(f"client {SHORT} {SECRET} mcp/call mcp/admin")
        issuer.tell(f"validity {SHORT} {LIFETIME}")
        server = Server(programs["mcp"], issuer, folder, "server")
        seconds = {"COGNITO_REFRESH_INTERVAL_SECONDS": "10", "COGNITO_MAX_KEY_AGE_SECONDS": "10"}
        outage = Server(programs["mcp"], issuer, folder, "outage", **seconds)
        if not all(checks.that(it.prints("ready", within=30), "the server starts") for it in (server, outage)):
            return
        # Without keys for the second server, whose keys are soon too old.
        issuer.tell("fault down")
        token = issuer.token(CALLER, scope="mcp/call")
        has_no_keys = lambda: get(outage.url, token=token, method="POST").status == 503
        checks.that(wait_until(has_no_keys, within=40, pause=1), "the keys become too old")

        walks = {}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for name, sdk in found.items():
                walks[name] = pool.submit(walk, checks, name, sdk, server, issuer, outage)
        table = {name: walking.result() for name, walking in walks.items()}

    lines = list(markdown(table))
    print("\n" + "\n".join(lines) + "\n")
    for name, results in table.items():
        for step, answer in results.items():
            if "error" in answer:
                print(f"{name}: {step}: {answer['error'][:300]}")
    page = PAGE.read_text().splitlines()
    for line in lines:
        checks.that(line in page, f"the page has the line {line}")


main(script)
