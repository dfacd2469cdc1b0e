#!/bin/sh
# Bring the virtual environment up to date with the pinned packages and this project.
#
# Settings, all optional:
#   VENV    folder of the environment (.venv)
#   PYTHON  interpreter to make it with (the first fitting one of python3.13, 3.12, 3.11, python3)
#   USE_UV  1: use uv; 0: use venv and pip; empty: uv when it is installed
#   PINS    constraints.txt: everything; constraints-run.txt: what running needs
set -eu

cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
pins=${PINS:-constraints.txt}
# What developers installed stays: it holds what running needs, too.
[ -e "$venv/.installed" ] && pins=constraints.txt
oldest=3.11
newest=3.13

fits() {
    # Run it: a name on PATH may be a shim for a version that is not installed.
    "$1" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null
}

can_make_environments() {
    # Debian splits ensurepip off into a package of its own.
    "$1" -c "import ensurepip, venv" 2>/dev/null
}

describe() {
    "$1" -c "import platform; print('Python', platform.python_version())"
}

find_python() {
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if fits "$candidate" && { [ "$use_uv" = 1 ] || can_make_environments "$candidate"; }; then
            echo "$candidate"
            return
        fi
    done
}

fail() {
    echo "install: $*" >&2
    exit 1
}

use_uv=${USE_UV:-}
if [ -z "$use_uv" ]; then
    use_uv=0
    if command -v uv >/dev/null 2>&1; then use_uv=1; fi
elif [ "$use_uv" = 1 ] && ! command -v uv >/dev/null 2>&1; then
    fail "USE_UV=1, but uv is not installed"
fi

python=${PYTHON:-}
if [ -n "$python" ]; then
    fits "$python" || fail "PYTHON=$python is not a Python from $oldest to $newest"
    [ "$use_uv" = 1 ] || can_make_environments "$python" ||
        fail "PYTHON=$python lacks ensurepip (on Debian: apt-get install python3-venv)"
else
    python=$(find_python)
fi

if [ -z "$python" ]; then
    # uv can bring an interpreter of its own.
    [ "$use_uv" = 1 ] || fail "no Python from $oldest to $newest with the venv and ensurepip" \
        "modules was found; install one (on Debian: apt-get install python3-venv), install uv," \
        "or name one: make PYTHON=/path/to/python3"
    python=">=$oldest,<=$newest.999"
fi

if ! fits "$venv/bin/python"; then
    if [ "$use_uv" = 1 ]; then
        uv venv --quiet --clear --python "$python" "$venv"
    else
        "$python" -m venv --clear "$venv"
    fi
fi

# pip says nothing for minutes when it is quiet, and too much when it is not: count.
counted() {
    total=$(grep -c '^[a-zA-Z0-9]' "$pins")
    while read -r word package _; do
        case $word in
            Collecting) done=$((${done:-0} + 1)) ;;
            Installing) package="all of them: this takes a while" ;;
            *) continue ;;
        esac
        if [ -t 1 ]; then
            printf '\r\033[Kinstall: %s of about %s: %s' "${done:-0}" "$total" "$package"
        elif [ "$word" = Installing ] || [ $((done % 25)) = 0 ]; then
            echo "install: ${done:-0} of about $total: $package"
        fi
    done
    [ ! -t 1 ] || printf '\r\033[K'
}

# Its exit status, for a pipe has that of its last command only.
failed="$venv/.install-failed"

# The build backend is among the pins, so building this project fetches nothing.
if [ "$use_uv" = 1 ]; then
    echo "install: uv, $(describe "$venv/bin/python"), $pins into $venv"
    uv pip sync --python "$venv/bin/python" --require-hashes "$pins"
    uv pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation -e .
else
    echo "install: pip, $(describe "$venv/bin/python"), $pins into $venv"
    "$venv/bin/python" -c "import pip" 2>/dev/null || "$venv/bin/python" -m ensurepip --upgrade
    rm -f "$failed"
    # The pins are complete, so pip has nothing to resolve. Left to it, an extra in a dependency
    # ("coverage[toml]") makes it try the newest release, which has no hash here, and give up.
    {
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-color \
            --progress-bar off --no-deps --require-hashes -r "$pins" || touch "$failed"
    } | counted
    if [ -e "$failed" ]; then
        rm -f "$failed"
        fail "pip could not install $pins; what it said is above"
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-deps --no-build-isolation -e .
fi
