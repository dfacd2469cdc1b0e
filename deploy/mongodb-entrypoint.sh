#!/bin/bash
# Start MongoDB with a copy of the key file that is its own: mongod refuses a key file that others
# can read, and a mounted one keeps the owner and mode that it has on the host.
set -euo pipefail

install -d -o mongodb -g mongodb -m 0700 /run/mongodb
install -o mongodb -g mongodb -m 0400 /run/secrets/mongo_key /run/mongodb/key
exec docker-entrypoint.sh "$@"
