# shellcheck shell=bash
# To be sourced in the top folder. Generates packages below the target folder.

mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)

# The commit that this crate is compared with.
older=dee3f67

# older_commit DIR: unpacks that commit.
older_commit() {
    [[ ! -d $1 ]] || return 0
    mkdir -p "$1.part"
    git archive "$older" | tar --extract --directory "$1.part"
    # Cargo cannot tell two packages with one name and one version apart.
    sed -i 's/^version = "0.1.0"/version = "0.0.1"/' "$1.part/Cargo.toml"
    mv "$1.part" "$1"
}

# application DIR DEPENDENCY [EXPRESSION]: generates an application on axum with this dependency, for
# example `{ path = "…", features = ["axum"] }`. The expression, for sed, changes its source.
application() {
    mkdir -p "$1/src"
    sed "${3-}" benches/src/bin/cold_start.rs >"$1/src/main.rs"
    cat >"$1/Cargo.toml" <<TOML
[workspace]

[package]
name = "cold_start"
version = "0.0.0"
edition = "2024"

[dependencies]
tower-cognito = $2
axum = { version = "0.8", default-features = false, features = ["http1", "tokio"] }
tokio = { version = "1.43", features = ["macros", "net", "rt-multi-thread"] }
TOML
}

# features MANIFEST ARGUMENT…: prints the crates of a package and their features.
features() {
    cargo tree --quiet --manifest-path "$1" --edges normal --prefix none --no-dedupe \
        --format '{p} [{f}]' "${@:2}" | sort --unique
}
