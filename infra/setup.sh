#!/bin/sh
# Makes the virtual environment .venv with what requirements.lock names, and does it again only
# when the lock has changed. Needs Python 3.11 or newer; `PYTHON=/path/to/python` names one.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*"; }
give_up() { printf '%s\n' "$*" >&2; exit 2; }

# Root, or who may become it without being asked for a password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"
    else return 126
    fi
}

install_python() {
    command -v apt-get >/dev/null || return 1
    as_root true || return 1
    say "Installing $* with apt-get"
    said=$(as_root sh -ec 'export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"' sh "$@" 2>&1) \
        || { say "$said" >&2; return 1; }
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

lock=$(sha256sum requirements.lock | cut -d' ' -f1)
installed=.venv/requirements.sha256
if [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null \
    && [ "$(cat $installed 2>/dev/null)" = "$lock" ]; then
    touch $installed
    exit 0
fi

python=$(find_python) || { install_python python3 python3-venv && python=$(find_python); } \
    || give_up "Perennial needs Python 3.11 or newer: install it, or name one with PYTHON=/path/to/python."
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    # Debian keeps what `venv` needs in a package of its own.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        install_python "$version" || give_up \
            "Python cannot make virtual environments here: install the package $version (on Debian: sudo apt-get install $version; without Docker also postgresql rabbitmq-server redis-server nginx)."
    fi
    say "Making the virtual environment .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi

total=$(grep -c '^[A-Za-z0-9]' requirements.lock)
log=.venv/install.log
say "Installing $total packages into .venv; this takes a minute (log: $log)"
# pip tells each package twice, when it is found and when it is fetched: the second is counted.
if ! .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off \
    --require-hashes --requirement requirements.lock 2>&1 | tee "$log" | awk -v total="$total" '
        /^ *(Using cached|Downloading) / { count += 1; if (count % 20 == 0) { print "  " count " of about " total; fflush() } }
        /^Installing collected/ { print "  unpacking"; fflush() }
        /^ERROR/ { print; fflush() }
        END { exit 0 }' || ! tail -n 3 "$log" | grep -Eq '^(Successfully|Requirement already)'; then
    give_up "The packages could not be installed; the log says more: $log"
fi
printf '%s\n' "$lock" >$installed
