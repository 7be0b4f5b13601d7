# Sourced by the scripts beside it: brings a machine from nothing to a virtual environment that runs kwdbml.
#
#   setup EXTRA [PACKAGE…]   system packages (the usual ones and PACKAGE…), .venv at the repository's root, and
#                            kwdbml in it with the extra EXTRA of pyproject.toml
#
# Debian 12; Ubuntu 24.04 by the same way with the Python and PostgreSQL it ships, untested. Safe to run twice: what is
# there is left alone, and a second run takes a moment. NN in a package's name stands for PostgreSQL's major version.
# Needs no standard input. Debian's own cluster on port 5432, if there is one, is neither used nor touched.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
VENV=$ROOT/.venv
SYSTEM_PYTHON=/usr/bin/python3 # plpython3u runs the distribution's Python, and its minor version has to be ours

say() { printf '\033[2m· %s\033[0m\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo. Run as root: $*"
    fi
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# The major version of PostgreSQL to use: the newest supported one that is here, else the distribution's own.
postgres_version() {
    local version
    for version in 18 17 16 15; do
        if [ -x "/usr/lib/postgresql/$version/bin/postgres" ]; then
            echo "$version"
            return
        fi
    done
    apt-cache show postgresql 2>/dev/null | sed -n 's/^Depends:.*postgresql-\([0-9][0-9]*\).*/\1/p' | head -n 1
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null >&2; }

install_packages() {
    local package missing=() version wanted=()
    if ! command -v apt-get >/dev/null; then
        say "no apt-get here: taking it that PostgreSQL with plpython3u, bubblewrap and venv are installed"
        return
    fi
    version=$(postgres_version)
    for package in "$@"; do
        # Before apt knows of any PostgreSQL there is no version to look for: certainly missing.
        if [ -z "$version" ] || ! installed "${package//NN/$version}"; then
            missing+=("$package")
        fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "looking up packages (apt-get update)"
    apt -qq update || say "apt-get update failed; trying with the lists that are here"
    version=$(postgres_version)
    [ -n "$version" ] || fail "apt offers no PostgreSQL"
    for package in "${missing[@]}"; do wanted+=("${package//NN/$version}"); done
    say "installing ${wanted[*]}"
    apt -qq -o Dpkg::Use-Pty=0 install --yes --no-install-recommends "${wanted[@]}"
}

make_venv() {
    [ -x "$SYSTEM_PYTHON" ] || fail "no $SYSTEM_PYTHON: install python3"
    "$SYSTEM_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$SYSTEM_PYTHON is older than 3.11"
    local version='import sys; print(*sys.version_info[:2], sep=".")'
    if [ "$("$VENV/bin/python" -c "$version" 2>/dev/null)" = "$("$SYSTEM_PYTHON" -c "$version")" ]; then
        return
    fi
    say "making the virtual environment .venv"
    "$SYSTEM_PYTHON" -m venv --clear "$VENV" >&2 || fail "venv failed: is python3-venv installed?"
}

# Whatever can install: uv in the environment, else pip in it.
pip_install() {
    if [ ! -x "$VENV/bin/uv" ]; then
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check uv </dev/null >&2 ||
            say "pip cannot get uv; going on with pip"
    fi
    if [ -x "$VENV/bin/uv" ] && "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" "$@" </dev/null >&2; then
        return
    fi
    PIP_ROOT_USER_ACTION=ignore "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@" </dev/null >&2
}

install_kwdbml() {
    local stamp=$VENV/.kwdbml-$1 now
    now=$({ echo "$ROOT"; cat "$ROOT/pyproject.toml"; } | sha256sum | cut -d' ' -f1) # a tree that was moved is installed anew
    if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then
        return
    fi
    say "installing kwdbml with [$1] into .venv"
    pip_install --editable "$ROOT[$1]" || fail "kwdbml could not be installed"
    echo "$now" >"$stamp"
}

setup() {
    local extra=$1
    shift
    # libgomp1: LightGBM and XGBoost are linked to it and do not bring it.
    install_packages ca-certificates postgresql-NN postgresql-plpython3-NN bubblewrap util-linux python3-venv libgomp1 "$@"
    make_venv
    install_kwdbml "$extra"
}
