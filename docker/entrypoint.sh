#!/bin/sh
# Bind all addresses if tokens are set, otherwise loopback. BNRECAL_HOST overrides this; the server
# itself refuses to listen on other addresses than loopback without a token.
set -eu
if [ -z "${BNRECAL_HOST:-}" ] && [ -n "${BNRECAL_TOKENS:-}${BNRECAL_TOKENS_FILE:-}" ]; then
    export BNRECAL_HOST=0.0.0.0
fi
exec "$@"
