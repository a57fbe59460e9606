#!/bin/sh
# Bind every address where tokens guard the server, loopback where none do. BNRECAL_HOST overrides
# it; the server itself refuses to listen beyond loopback without a token.
set -eu
if [ -z "${BNRECAL_HOST:-}" ] && [ -n "${BNRECAL_TOKENS:-}${BNRECAL_TOKENS_FILE:-}" ]; then
    export BNRECAL_HOST=0.0.0.0
fi
exec "$@"
