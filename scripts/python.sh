# shellcheck shell=sh
# Sourced by setup and lock: a Python 3.11 or newer that can make a venv with pip in it.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# Prints its name. One on PATH may be a shim for a version that isn't there: each candidate has to run.
find_python() {
    for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13 python3.14 /usr/bin/python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "no Python 3.11 or newer found (tried ${PYTHON:-python3.11, python3 and later}). Install one, or name it: make PYTHON=/path/to/python3 setup"
}

# Debian ships Python without ensurepip; its package python3.N-venv brings it.
need_ensurepip() {
    if "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; then return; fi
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    command -v apt-get >/dev/null 2>&1 ||
        die "$1 has no ensurepip module. Install it, or name another Python: make PYTHON=/path/to/python3 setup"
    [ "$(id -u)" = 0 ] || die "$1 has no ensurepip module. Install it: sudo apt-get install $package"
    say "installing $package: this Python came without ensurepip"
    apt-get -qq update >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$package" >/dev/null
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        die "$1 has no ensurepip module even with $package. Name Debian's Python: make PYTHON=/usr/bin/python3 setup"
}
