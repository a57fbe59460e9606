#!/usr/bin/env bash
# Build the image, start it as hardened as an engine can, and run the digits through it.
#
# Without an engine it says so and fails; with BNRECAL_ALLOW_NO_ENGINE=1 it says so and succeeds.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$ROOT/.venv/bin/python
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/bnrecal-docker.XXXXXX")
IMAGE=bnrecal:test
NAME=bnrecal-test-$$
HEALTHY_WAIT_S=60
HARDENED=(
    --network none --read-only --tmpfs /tmp:size=256m --cap-drop ALL
    --security-opt no-new-privileges --pids-limit 256 --memory 1g
)

# shellcheck source=docker/engine.sh
source "$ROOT/docker/engine.sh"
# shellcheck source=docker/images.sh
source "$ROOT/docker/images.sh"

clean_up() {
    if [ -n "${DOCKER:-}" ] && "$DOCKER" info > /dev/null 2>&1; then
        "$DOCKER" rm --force "$NAME" > /dev/null 2>&1 || true
        "$DOCKER" volume rm --force "$NAME" > /dev/null 2>&1 || true
    fi
    engine_stop
    rm -rf "$SCRATCH"
}
trap clean_up EXIT

fail() {
    echo "FAILED: $*" >&2
    "$DOCKER" logs --tail 20 "$NAME" >&2 || true
    exit 1
}

inside() { "$DOCKER" exec "$NAME" "$@"; }

start() { # start [engine options]: run the server in the background
    "$DOCKER" run --detach --name "$NAME" "${HARDENED[@]}" --mount "type=volume,src=$NAME,dst=/data" \
        --health-interval 1s "$@" "$IMAGE" > /dev/null
}

wait_healthy() {
    local deadline=$((SECONDS + HEALTHY_WAIT_S))
    until [ "$("$DOCKER" inspect --format '{{.State.Health.Status}}' "$NAME")" = healthy ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "the server does not become healthy"
        sleep 0.3
    done
}

build() {
    local began=$SECONDS size
    if ! DOCKER_BUILDKIT=1 "$DOCKER" build --network none --progress plain --tag "$IMAGE" \
        --build-arg "PYTHON_IMAGE=$PYTHON_IMAGE" --build-arg "WHEELS_IMAGE=$WHEELS_IMAGE" \
        "$ROOT" > "$SCRATCH/build.log" 2>&1; then
        tail -n 30 "$SCRATCH/build.log" >&2
        echo "FAILED: the image does not build" >&2
        exit 1
    fi
    size=$("$DOCKER" image inspect --format '{{.Size}}' "$IMAGE")
    echo "image: $((size / 1000000)) MB, built in $((SECONDS - began)) s without network"
}

check_hardening() {
    [ "$(inside id -u)" = 10001 ] || fail "the server does not run as uid 10001"
    ! inside sh -c 'touch /opt/bnrecal/x' 2> /dev/null || fail "the root file system can be written"
    inside grep -q '^CapEff:[[:space:]]0*$' /proc/1/status || fail "the server holds capabilities"
    inside grep -q '^NoNewPrivs:[[:space:]]1$' /proc/1/status || fail "it may gain privileges"
    ! inside python -c 'import torch' 2> /dev/null || fail "torch is in the image"
    inside python -c '
import json, urllib.request
workers = json.load(urllib.request.urlopen("http://127.0.0.1:8000/readyz"))["workers"]
shut = [name for name, value in workers.items() if value is True]
doors = {"rlimits", "parent_death_signal", "no_new_privs", "landlock", "seccomp"}
assert doors <= set(shut), workers
' || fail "a door of the workers is open"
    echo "hardened: uid 10001, root read-only, no capability, no new privilege, no network, no torch"
    echo "workers: rlimits, parent death signal, no_new_privs, landlock and seccomp in force"
}

run_digits() {
    mkdir -p "$SCRATCH/demo"
    cp -r "$ROOT/examples" "$SCRATCH/demo/"
    (cd "$ROOT" && "$PYTHON" -c '
import pathlib, sys
from examples.digits.data import load_sklearn_digits, save
save(load_sklearn_digits(), pathlib.Path(sys.argv[1]))' "$SCRATCH/demo/digits.npz")
    # Through a pipe: a bind mount would need the engine to share this machine's files.
    tar -C "$SCRATCH" -c demo | "$DOCKER" exec --interactive "$NAME" tar -C /tmp -x --no-same-owner
    echo
    "$DOCKER" exec --workdir /tmp/demo "$NAME" python -m examples.digits.demo \
        --server http://127.0.0.1:8000 --digits digits.npz || fail "the digits"
    echo
}

check_restart() {
    "$DOCKER" restart --time 20 "$NAME" > /dev/null
    wait_healthy
    inside python -c '
import json, urllib.request
answer = urllib.request.urlopen("http://127.0.0.1:8000/v1/recalibrations")
assert [item["state"] for item in json.load(answer)["items"]] == ["succeeded"]
' || fail "the recalibration is gone after a restart"
    "$DOCKER" stop --time 20 "$NAME" > /dev/null
    local status
    status=$("$DOCKER" inspect --format '{{.State.ExitCode}}' "$NAME")
    [ "$status" = 0 ] || fail "stopped with status $status"
    "$DOCKER" rm "$NAME" > /dev/null
    echo "restart: the recalibration is still there; stop: status 0"
}

check_tokens() {
    if "$DOCKER" run --name "$NAME" "${HARDENED[@]}" --tmpfs /data:uid=10001,mode=700 \
        --env BNRECAL_HOST=0.0.0.0 "$IMAGE" > /dev/null 2>&1; then
        fail "it serves other machines without a token"
    fi
    "$DOCKER" rm "$NAME" > /dev/null
    start --env "BNRECAL_TOKENS=$(printf %s secret | sha256sum | cut -d ' ' -f 1)"
    wait_healthy
    "$DOCKER" logs "$NAME" 2>&1 | grep -q 'listening on http://0.0.0.0:8000' \
        || fail "with a token it does not listen on every address"
    inside python -c '
import urllib.error, urllib.request
url = "http://127.0.0.1:8000/v1/recalibrations"
try:
    urllib.request.urlopen(url)
except urllib.error.HTTPError as error:
    assert error.code == 401, error.code
else:
    raise SystemExit("no token was asked for")
urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": "Bearer secret"}))
' || fail "tokens"
    echo "tokens: refused to start open; 401 without, 200 with one"
}

if ! engine_find; then
    echo
    echo "############################################################################"
    echo "#  NO CONTAINER ENGINE: the image was NOT built and NOT tested here.       #"
    echo "############################################################################"
    [ "${BNRECAL_ALLOW_NO_ENGINE:-}" = 1 ]
    exit
fi
images_python
images_wheels
build
start
wait_healthy
check_hardening
run_digits
check_restart
check_tokens
echo "the container test passed"
