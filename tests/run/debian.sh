# shellcheck shell=bash
# To be sourced.

# debian_install PACKAGE…: installs packages as root on Debian. Nothing is compiled.
debian_install() {
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "missing: apt-get install $*" >&2
        return 1
    fi
    local install=(apt-get install --yes --quiet --no-install-recommends "$@")
    local -x DEBIAN_FRONTEND=noninteractive
    "${install[@]}" >/dev/null 2>&1 ||
        { apt-get update --quiet >/dev/null && "${install[@]}" >/dev/null; }
}
