"""What Lambda is for a function: the Runtime API, and a process that runs only between an event and the
next request for one. libfaketime advances one or both of its clocks while it is stopped."""

import contextlib
import json
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness import CLIENT_ID, Issuer, debian, start

ARN = "arn:aws:lambda:ap-northeast-1:123456789012:function:api"


def libfaketime():
    """Returns the path of the library. It installs it, if it can."""
    for _ in range(2):
        for folder in [*Path("/usr/lib").glob("*/faketime"), Path("/usr/lib/faketime")]:
            if (folder / "libfaketimeMT.so.1").exists():
                return folder / "libfaketimeMT.so.1"
        debian("libfaketime", program="/usr/share/doc/libfaketime")
    raise RuntimeError("libfaketime has another path")


class RuntimeApi(BaseHTTPRequestHandler):
    """The four calls of the Runtime API, version 2018-06-01."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        sandbox = self.server.sandbox
        if self.path != "/2018-06-01/runtime/invocation/next":
            self.answer(404)
            return
        sandbox.is_waiting.set()
        event = sandbox.events.get()
        if event is None:
            self.close_connection = True
            return
        deadline = int((time.time() + sandbox.offset + 30) * 1000)
        self.answer(
            200,
            json.dumps(event).encode(),
            {
                "Lambda-Runtime-Aws-Request-Id": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
                "Lambda-Runtime-Deadline-Ms": str(deadline),
                "Lambda-Runtime-Invoked-Function-Arn": ARN,
                "Lambda-Runtime-Trace-Id": "Root=1-6a000000-0123456789abcdef01234567;Sampled=0",
            },
        )

    def do_POST(self):
        sandbox = self.server.sandbox
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.path.rsplit("/", 1)[1]
        self.answer(202, b'{"status":"OK"}')
        sandbox.answers.put((kind, body))

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Sandbox:
    """An execution environment, from its init phase to its end."""

    all = []

    def __init__(self, program, clocks="both", **settings):
        self.events, self.answers = queue.Queue(), queue.Queue()
        self.is_waiting = threading.Event()
        self.offset = 0
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Path(self.folder.name, "clock")
        self.set_clock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), RuntimeApi)
        self.server.daemon_threads = True
        self.server.sandbox = self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        settings = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": "api",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/api",
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/21/[$LATEST]0123456789abcdef0123456789abcdef",
            "AWS_REGION": "ap-northeast-1",
            "LD_PRELOAD": str(libfaketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1" if clocks == "wall" else "0",
            **settings,
        }
        self.log_path = Path(self.folder.name, "log")
        began = time.monotonic()
        with self.log_path.open("wb") as log:
            self.process = start(program, env=settings, stdout=log, stderr=log)
        Sandbox.all.append(self)
        self.seconds = 0
        self.wait_for(lambda: self.is_waiting.wait(0.05) or None)
        self.init_seconds = time.monotonic() - began
        if self.process.returncode is None:
            self.freeze()

    def invoke(self, event):
        """Returns the answer to the event: `(kind, body)`."""
        if self.process.poll() is not None:
            return "ended", {}
        self.is_waiting.clear()
        began = time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        self.events.put(event)
        posted = self.wait_for(lambda: self.answers.get(timeout=0.05))
        self.seconds = time.monotonic() - began
        if posted is None or not self.wait_for(lambda: self.is_waiting.wait(0.05) or None):
            return "ended", {}
        self.freeze()
        kind, body = posted
        return kind, json.loads(body)

    def wait_for(self, what):
        """Waits for at most 30 s. Returns `None` if the function exits before."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            with contextlib.suppress(queue.Empty):
                if (found := what()) is not None:
                    return found
            if time.monotonic() > deadline:
                raise RuntimeError(f"the function does nothing:\n{self.log()}")
        return None

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        self.wait_for(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T" or None)

    def sleep(self, seconds):
        """Sets the clocks of the frozen function for the time when it continues."""
        self.offset += seconds
        self.set_clock()

    def set_clock(self):
        new = self.clock.with_suffix(".new")
        new.write_text(f"+{self.offset}\n")
        new.rename(self.clock)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def end(self):
        """Returns the exit code after SIGTERM."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)
        code = "it still runs after 10 s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(10)
        self.close()
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self in Sandbox.all:
            Sandbox.all.remove(self)
            self.events.put(None)
            self.server.shutdown()
            self.server.server_close()
            self.folder.cleanup()


def close_all(show_logs=False):
    """Ends every sandbox that was not closed."""
    for sandbox in list(Sandbox.all):
        if show_logs:
            print(sandbox.log())
        sandbox.close()


class DistantIssuer(Issuer):
    """An issuer and the proxy in front of it."""

    def __init__(self, program):
        super().__init__(program)
        jwks = urllib.parse.urlsplit(self.jwks_url)
        self.line = Line(jwks.port)
        self.settings = {
            "COGNITO_ISSUER": self.url,
            "COGNITO_JWKS_URL": f"http://127.0.0.1:{self.line.port}{jwks.path}",
            "COGNITO_CLIENT_IDS": CLIENT_ID,
        }


class Line:
    """A proxy between function and issuer. It adds a delay like a network, and it drops connections like
    a NAT: without a notification, no more data passes."""

    DELAY = 0.03

    def __init__(self, target):
        self.target = target
        self.generation = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def forget(self):
        self.generation += 1

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            far = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in ((near, far), (far, near)):
                arguments = (source, sink, self.generation)
                threading.Thread(target=self.carry, args=arguments, daemon=True).start()

    def carry(self, source, sink, generation):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self.DELAY)
                if generation == self.generation:
                    sink.sendall(data)
            if generation == self.generation:
                sink.shutdown(socket.SHUT_WR)
