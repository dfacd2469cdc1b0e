#!/bin/sh
# Pin every package, with hashes, for all supported platforms and Python versions. Needs uv.
#
# Existing pins stay where pyproject.toml allows them; pass --upgrade to move all of them, or
# --upgrade-package NAME for one.
set -eu

cd "$(dirname "$0")/.."
command -v uv >/dev/null 2>&1 || {
    echo "constraints: needs uv" >&2
    exit 1
}

compile() {
    uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
        --no-header --no-emit-index-url --no-emit-find-links "$@" pyproject.toml
}

# Developers, tests and builds.
compile --all-extras --output-file constraints.txt "$@"
# The container image: what the application itself needs, in the same versions.
compile --extra otel --constraint constraints.txt --output-file constraints-runtime.txt "$@"
