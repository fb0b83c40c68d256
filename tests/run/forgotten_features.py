#!/usr/bin/env python3
"""Compiles code without the features that it needs, and compares the compiler's errors with the section
"The program does not compile" of src/docs/errors.md. With the features, the same code compiles. Then
runs a program without the feature `reqwest`.
"""
# ci: all computes: an error of the compiler is not the one on the page src/docs/errors.md

import os
import re
import shutil

from harness import ROOT, TARGET, main, run, temporary_folder

MANIFEST = """
[package]
name = "forgotten-features"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
axum = {{ version = "0.8", default-features = false, features = ["http1", "http2", "tokio"] }}
tonic = {{ version = "0.14", default-features = false }}
tower-cognito = {{ path = "{root}", default-features = false, features = [{features}] }}

# Those of the workspace, so that the dependencies are compiled only once.
[profile.dev]
debug = "line-tables-only"

[profile.dev.package."*"]
debug = false
"""

# The code for each row of the page, by the error in its first cell.
CODE = {
    "the trait bound `fn(AccessToken) -> … {receive}: Handler<_, _>` is not satisfied": """
    use axum::{Router, routing::get};
    use tower_cognito::AccessToken;

    async fn receive(token: AccessToken) -> String {
        token.client_id().to_owned()
    }

    pub fn app() -> Router {
        Router::new().route("/", get(receive))
    }
    """,
    "unresolved import `tower_cognito::TokenInterceptor`": "pub use tower_cognito::TokenInterceptor;",
    "the trait bound `tonic::Status: From<Rejection>` is not satisfied": """
    pub fn status(rejection: tower_cognito::Rejection) -> tonic::Status {
        tonic::Status::from(rejection)
    }
    """,
    "unresolved import `tower_cognito::TestIssuer`": "pub use tower_cognito::TestIssuer;",
    "could not find `test_issuer` in `tower_cognito`": "pub use tower_cognito::test_issuer::Fault;",
    "no method named `http_client` found for struct `VerifierBuilder`": """
    pub fn proxied(builder: tower_cognito::VerifierBuilder) -> tower_cognito::VerifierBuilder {
        builder.http_client(Default::default())
    }
    """,
}

# Without the feature `reqwest`, keys from a URL need a fetcher, and others do not.
PROGRAM = """
use tower_cognito::{ClientIds, JwksDocument, RefreshError, Rules, UserPool, Verifier};

fn main() {
    let pool = || UserPool::new("us-east-1_Example").unwrap();
    let builder = |pool| Verifier::builder(Rules::new(pool, ClientIds::any()));
    println!("{}", builder(pool()).connect_lazy().unwrap_err());
    let fetcher = |_url| async { Err::<JwksDocument, _>(RefreshError::status(500)) };
    builder(pool()).jwks_fetcher(fetcher).connect_lazy().unwrap();
    builder(pool().with_jwks_file("/jwks.json")).connect_lazy().unwrap();
}
"""


def rows():
    """Returns the errors of the page, and the features that they need."""
    page = (ROOT / "src/docs/errors.md").read_text(encoding="utf-8")
    section = page.split("## The program does not compile\n")[1]
    cells = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ")]
    # Double backquotes around a text that contains single ones.
    return {error.strip("`").strip(): feature for error, feature, *_ in cells[2:]}


def cargo(command, folder, features):
    quoted = ", ".join(f'"{feature}"' for feature in features)
    (folder / "Cargo.toml").write_text(MANIFEST.format(root=ROOT, features=quoted))
    done = run(
        *["cargo", command, "--quiet", "--target-dir", TARGET],
        cwd=folder,
        env={**os.environ, "CARGO_TERM_COLOR": "never"},
    )
    return done.returncode, re.sub(r"\s+", " ", done.stdout + done.stderr)


def script(checks):
    needed = rows()
    checks.equal("each row of the page has code", sorted(needed), sorted(CODE))
    with temporary_folder() as folder:
        shutil.copy(ROOT / "Cargo.lock", folder)
        modules = [f"pub mod row_{at} {{{code}}}\n" for at, code in enumerate(CODE.values())]
        (folder / "src").mkdir()
        (folder / "src/lib.rs").write_text("".join(modules))
        code, errors = cargo("check", folder, [])
        checks.equal("without features, it does not compile", 101, code)
        for error in needed:
            checks.contains(f"the compiler says: {error}", errors, *error.split("…"))
        features = sorted({re.match(r"`([a-z-]+)`", cell)[1] for cell in needed.values()})
        code, errors = cargo("check", folder, features)
        checks.that(code == 0, f"it compiles with {', '.join(features)}", errors)
        (folder / "src/main.rs").write_text(PROGRAM)
        (folder / "src/lib.rs").write_text("")
        code, output = cargo("run", folder, [])
        checks.equal("without `reqwest`, a fetcher or a file is enough", 0, code)
        expected = "neither `jwks_fetcher` nor the feature `reqwest` is set to fetch keys"
        checks.contains("without `reqwest`, a URL is not", output, expected)


main(script)
