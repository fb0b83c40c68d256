#!/usr/bin/env python3
"""Calls the servers of examples/tonic with grpcio, @grpc/grpc-js and @connectrpc/connect-node (gRPC, gRPC-Web
and Connect), pinned: unary and streaming, with and without a retry policy.

The programs in the folder grpc_clients read one call per line as JSON (`address`, `token`, `kind`, `policy`,
and the version of `http` for gRPC-Web and Connect) and answer with a line: `code`, `message`, and the
`challenge` (`www-authenticate`) if the client shows it.
The number of attempts is that of the rejections in the server's log.

It prints two tables, and compares them with those of the page `mcp_and_grpc`.
"""
# ci: all waits: the lines with FAIL say which client got what; or npm and pip have to reach their registries

import json
import subprocess
import time

from harness import (
    CLIENT_ID,
    ROOT,
    Issuer,
    NotAvailable,
    Program,
    build,
    environment,
    main,
    node,
    npm,
    pypi,
    start,
    temporary_folder,
    wait_until,
)

GRPCIO = "grpcio==1.85.3"
NODE = [
    "@grpc/grpc-js@1.14.7",
    "@connectrpc/connect-node@2.1.2",
    "@connectrpc/connect@2.1.2",
    "@bufbuild/protobuf@2.17.0",
]
FOLDER = ROOT / "tests/run/grpc_clients"
PAGE = ROOT / "src/docs/mcp_and_grpc.md"

SERVERS = ["LAYER", "INTERCEPTOR", "HTTP_REJECTIONS_ONLY"]
CASES = ["no token", "expired token", "scope missing", "no keys", "valid token"]
KINDS = ["unary", "streaming"]
WITH_POLICY = ["grpcio", "grpc-js"]
GRPC = ["grpcio", "grpc-js", "connect-node, gRPC", "connect-node, gRPC-Web"]
CONNECT = "connect-node, Connect"


class Servers(Program):
    """An examples/tonic that trusts this issuer."""

    def __init__(self, program, issuer, folder, name, **settings):
        ours = {"COGNITO_ISSUER": issuer.url, "COGNITO_CLIENT_IDS": CLIENT_ID}
        super().__init__(folder, name, program, "serve", **ours, **settings)

    def address(self, server):
        return self.printed(rf"^{server}=(.*)$")[1]

    def rejections(self):
        return self.log.read_text().count("request rejected")


class Program:
    """A client program."""

    def __init__(self, *command):
        self.process = start(
            *command,
            env=environment(GRPC_VERBOSITY="NONE"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, servers, server, token, kind, policy):
        before = servers.rejections()
        call = {
            "address": servers.address(server),
            "token": token,
            "kind": kind,
            "policy": policy,
            # Over HTTP/1.1, a gRPC-Web client may miss the rejection of an interceptor, which does not
            # read the body: the server closes the connection.
            "http": "2" if server == "INTERCEPTOR" else "1.1",
        }
        print(json.dumps(call), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        answer["attempts"] = servers.rejections() - before
        return answer


def clients(checks):
    """Returns the program of each client that can be installed."""
    found = {}
    try:
        found["grpcio"] = Program(pypi(GRPCIO).python, FOLDER / "client.py")
    except NotAvailable as error:
        checks.not_checked(GRPCIO, error)
    try:
        folder = npm(*NODE)
        # An import is resolved from the folder of its file.
        program = folder / "client.mjs"
        program.write_bytes((FOLDER / "client.mjs").read_bytes())
        for name, protocol in {
            "grpc-js": "grpc-js",
            "connect-node, gRPC": "grpc",
            "connect-node, gRPC-Web": "grpc-web",
            CONNECT: "connect",
        }.items():
            found[name] = Program(node() / "node", program, protocol)
    except NotAvailable as error:
        checks.not_checked(" ".join(NODE), error)
    return found


class Results:
    """Every answer, by client, server, case, kind and policy."""

    def __init__(self):
        self.answers = {}

    def add(self, client, server, case, kind, policy, answer):
        self.answers[client, server, case, kind, policy] = answer

    def find(self, clients, servers, case, kinds=KINDS, policy=False):
        return [
            self.answers[client, server, case, kind, policy]
            for client in clients
            for server in servers
            for kind in kinds
            if (client, server, case, kind, policy) in self.answers
        ]

    def same(self, part, *which, **more):
        """Returns the code or the message. All answers should have the same."""
        return " or ".join(dict.fromkeys(answer[part] for answer in self.find(*which, **more)))

    def messages_table(self):
        http, layers = ["HTTP_REJECTIONS_ONLY"], ["LAYER", "HTTP_REJECTIONS_ONLY"]
        yield (
            "| case | code | message of the gRPC form | HTTP form, grpcio | HTTP form, grpc-js "
            "| HTTP form, connect-node | Connect, unary |"
        )
        yield "| --- |" + " --- |" * 6
        for case in CASES:
            if case == "valid token":
                continue
            cells = [
                f"`{self.same('code', [*GRPC, CONNECT], SERVERS, case)}`",
                self.same("message", GRPC, ["LAYER", "INTERCEPTOR"], case),
                self.same("message", ["grpcio"], http, case),
                self.same("message", ["grpc-js"], http, case),
                self.same("message", GRPC[2:], http, case),
                self.same("message", [CONNECT], layers, case, kinds=["unary"]),
            ]
            yield f"| {case} | " + " | ".join(cells) + " |"

    def shows_challenge(self, client, servers):
        """Returns in which kinds of calls a client shows the challenge."""
        kinds = []
        for kind in KINDS:
            shown = {
                answer["challenge"] is not None
                for case in ["no token", "expired token", "scope missing"]
                for answer in self.find([client], servers, case, kinds=[kind])
            }
            if shown == {True}:
                kinds.append(kind)
            elif shown != {False}:
                kinds.append(f"{kind}, sometimes")
        return " and ".join(kinds) or "no"

    def attempts(self, client, server):
        policy = client in WITH_POLICY
        found = {
            answer["attempts"] for answer in self.find([client], [server], "no keys", policy=policy)
        }
        return " or ".join(map(str, sorted(found)))

    def challenge_table(self):
        yield (
            "| client | shows `www-authenticate` of the gRPC form | of the HTTP form | attempts "
            "without keys, layer | interceptor | HTTP rejections only |"
        )
        yield "| --- |" + " --- |" * 5
        for client in [*GRPC, CONNECT]:
            grpc = ["LAYER", "INTERCEPTOR"]
            http = ["HTTP_REJECTIONS_ONLY"]
            if client == CONNECT:
                grpc, http = [], ["LAYER", *http]
            shows_grpc = self.shows_challenge(client, grpc) if grpc else "-"
            cells = [shows_grpc, self.shows_challenge(client, http)]
            cells += [self.attempts(client, server) or "-" for server in SERVERS]
            yield f"| {client} | " + " | ".join(cells) + " |"


def script(checks):
    programs = build("issuer", "tonic")
    found = clients(checks)
    with temporary_folder() as folder, Issuer(programs["issuer"]) as issuer:
        servers = Servers(programs["tonic"], issuer, folder, "servers")
        seconds = {"COGNITO_REFRESH_INTERVAL_SECONDS": "10", "COGNITO_MAX_KEY_AGE_SECONDS": "10"}
        outage = Servers(programs["tonic"], issuer, folder, "outage", **seconds)
        for started in (servers, outage):
            if not checks.that(started.prints("ready", within=30), "the servers start"):
                return
        now = int(time.time())
        valid = issuer.token(scope="health/read health/watch")
        tokens = {
            "no token": "",
            "expired token": issuer.token(scope="health/read", iat=now - 7200, exp=now - 3600),
            "scope missing": issuer.token(scope="other/x"),
            "no keys": valid,
            "valid token": valid,
        }
        # Without keys for the second process, whose keys are soon too old.
        issuer.tell("fault down")
        probe = next(iter(found.values()))
        has_no_keys = lambda: (
            probe.call(outage, "LAYER", valid, "unary", False)["code"] == "UNAVAILABLE"
        )
        checks.that(wait_until(has_no_keys, within=60, pause=1), "the keys become too old")

        results = Results()
        for client, program in found.items():
            for server in SERVERS:
                if client == CONNECT and server == "INTERCEPTOR":
                    continue  # tonic has no Connect
                for case in CASES:
                    for kind in KINDS:
                        target = outage if case == "no keys" else servers
                        token = tokens[case]
                        answer = program.call(target, server, token, kind, False)
                        results.add(client, server, case, kind, False, answer)
                        rejections = 0 if case == "valid token" else 1
                        name = f"{client}, {server}, {case}, {kind}"
                        checks.equal(f"{name}: attempts", rejections, answer["attempts"])
                        if client not in WITH_POLICY:
                            continue
                        retried = program.call(target, server, token, kind, True)
                        results.add(client, server, case, kind, True, retried)
                        same = ("code", "message", "challenge")
                        checks.equal(
                            f"{name}: the same with a retry policy",
                            [answer[part] for part in same],
                            [retried[part] for part in same],
                        )
                        if case != "no keys":
                            checks.equal(f"{name}: attempts with it", rejections, retried["attempts"])

    valid = "valid token"
    checks.equal("a valid token", "OK", results.same("code", GRPC, SERVERS, valid))
    # tonic has no Connect. It responds at once, sometimes before the client has written its body.
    found = results.same("message", [CONNECT], SERVERS, valid).split(" or ")
    checks.equal("a valid token, Connect", {"HTTP 400"}, set(found) - {"write EPIPE"})
    for case in CASES[:-1]:
        streamed = results.same("message", [CONNECT], SERVERS, case, kinds=["streaming"])
        same = results.same("message", GRPC[2:], ["HTTP_REJECTIONS_ONLY"], case)
        checks.equal(f"{case}, Connect, streaming", same, streamed)
    lines = [*results.messages_table(), *results.challenge_table()]
    print("\n" + "\n".join(lines) + "\n")
    page = PAGE.read_text().splitlines() if PAGE.exists() else []
    for line in lines:
        checks.that(line in page, f"the page has the line {line}")


main(script)
