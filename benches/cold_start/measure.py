#!/usr/bin/env python3
"""Measures the cold start: from exec to the first verified response, with keys over https.

    benches/cold_start/measure.py ROUNDS [--json FILE]

The services start in turns, and this happens twice. The minimum of all rounds counts, and the peak of
the resident memory. `benches/src/bin/cold_start.rs` is the service with this crate. It is built in an
empty folder as users build it, also with the older commit of benches/before.sh.
`service.mjs` is the same service in Node. Needs Node with npm, and openssl.
"""

import http.client
import http.server
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import rows  # noqa: E402

BUILD = """
. benches/packages.sh
work=$target/cold_start
older_commit "$work/old"
# The older commit has this method under another name.
application "$work/before" "{ path = \\"$work/old\\", features = [\\"axum\\"] }" \\
    's/with_jwks_url/jwks_url/'
application "$work/after" "{ path = \\"$PWD\\", features = [\\"axum\\"] }"
build() {
    cargo build --quiet --release --manifest-path "$work/$1/Cargo.toml" --target-dir "$work/$2"
    cp "$work/$2/release/cold_start" "$work/$3"
}
build before target before.bin
build after target after.bin
AWS_LC_SYS_NO_JITTER_ENTROPY=1 build after target-without-jitter without-jitter.bin
mkdir -p "$work/node"
cp benches/cold_start/service.mjs "$work/node"
npm install --silent --no-audit --no-fund --prefix "$work/node" aws-jwt-verify@5.2.1 >&2
echo "$work"
"""


def build():
    """Builds the services, and returns their commands."""
    work = pathlib.Path(rows.printed_by(BUILD))
    return {
        "before": [work / "before.bin"],
        "after": [work / "after.bin"],
        f"after, {rows.JITTER}": [work / "without-jitter.bin"],
        rows.NODE: ["node", work / "node" / "service.mjs"],
    }
CLIENT_ID = "5a1b2c3d4e5f6g7h8i9j0k1l2m"
ISSUER = "https://issuer.example/pool"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serve(document, directory):
    """Serves the keys over https, and returns the URL and the file of the certificate."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-addext", "basicConstraints=critical,CA:FALSE",
         "-addext", "extendedKeyUsage=serverAuth",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"https://localhost:{server.server_port}/jwks.json", certificate


def first_response(port, token):
    """Returns the status of the first response. Tries again until the service listens."""
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/", headers={"Authorization": f"Bearer {token}"})
            return connection.getresponse().status
        except ConnectionRefusedError:
            time.sleep(0.0002)


def peak_memory(pid):
    """Returns the peak of the resident memory in MB."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(rounds, commands, environment, token):
    """Starts the services in turns, and returns the milliseconds and megabytes of each."""
    times, memory = {name: [] for name in commands}, {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            port = free_port()
            environment["PORT"] = str(port)
            began = time.monotonic()
            service = subprocess.Popen(command, env=environment)
            try:
                status = first_response(port, token)
                times[name].append((time.monotonic() - began) * 1000)
                assert status == 200, f"{name}: {status}"
                memory[name].append(peak_memory(service.pid))
            finally:
                service.kill()
                service.wait()
    return (
        {name: round(min(of), 1) for name, of in times.items()},
        {name: round(max(of), 1) for name, of in memory.items()},
    )


def main():
    rounds = int(sys.argv[1])
    commands = build()
    environment = os.environ | {"CLIENT_ID": CLIENT_ID, "ISSUER": ISSUER}
    made = subprocess.run(
        ["node", HERE / "keys.mjs"], env=environment, check=True, capture_output=True
    )
    made = json.loads(made.stdout)
    milliseconds, megabytes = {name: [] for name in commands}, {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as directory:
        url, certificate = serve(json.dumps(made["jwks"]).encode(), pathlib.Path(directory))
        environment |= {
            "JWKS_URL": url,
            "SSL_CERT_FILE": str(certificate),
            "NODE_EXTRA_CA_CERTS": str(certificate),
        }
        for _ in range(2):
            times, memory = measure(rounds, commands, environment, made["token"])
            for name in commands:
                milliseconds[name].append(times[name])
                megabytes[name].append(memory[name])
    results = {"milliseconds": milliseconds, "peak_megabytes": megabytes}
    rows.report(results, sys.argv)


if __name__ == "__main__":
    main()
