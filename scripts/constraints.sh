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
        --no-header --no-emit-index-url --no-emit-find-links "$@"
}

# Developers, tests and builds.
compile --all-extras --output-file constraints.txt "$@" pyproject.toml
# What `make run` needs, in the same versions.
compile --extra build --constraint constraints.txt --output-file constraints-run.txt "$@" \
    pyproject.toml
# The container image: what the application itself needs and the model of embeddings, likewise; it
# brings no database along.
without_database=$(mktemp -d)
trap 'rm -rf "$without_database"' EXIT
sed '/"SecantusDB==/d' pyproject.toml >"$without_database/pyproject.toml"
compile --extra otel --extra search --constraint constraints.txt --output-file constraints-runtime.txt "$@" \
    "$without_database/pyproject.toml"
sed "s#$without_database/##" constraints-runtime.txt >"$without_database/pins"
cat "$without_database/pins" >constraints-runtime.txt
