#!/usr/bin/env bash
# Build the image, start it with all hardening options, and recalibrate the digits network in it.
#
# Without a container engine it reports that and fails, or succeeds if BNRECAL_ALLOW_NO_ENGINE=1.
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

start() { # start [engine options]: start the server in the background
    "$DOCKER" run --detach --name "$NAME" "${HARDENED[@]}" --mount "type=volume,src=$NAME,dst=/data" \
        --health-interval 1s "$@" "$IMAGE" > /dev/null
}

wait_healthy() {
    local deadline=$((SECONDS + HEALTHY_WAIT_S))
    until [ "$("$DOCKER" inspect --format '{{.State.Health.Status}}' "$NAME")" = healthy ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "the server did not become healthy"
        sleep 0.3
    done
}

build() {
    local began=$SECONDS size
    if ! DOCKER_BUILDKIT=1 "$DOCKER" build --network none --progress plain --tag "$IMAGE" \
        --build-arg "PYTHON_IMAGE=$PYTHON_IMAGE" --build-arg "BUILD_IMAGE=$BUILD_IMAGE" \
        --build-arg "WHEELS_IMAGE=$WHEELS_IMAGE" \
        "$ROOT" > "$SCRATCH/build.log" 2>&1; then
        tail -n 30 "$SCRATCH/build.log" >&2
        echo "FAILED: building the image" >&2
        exit 1
    fi
    size=$("$DOCKER" image inspect --format '{{.Size}}' "$IMAGE")
    echo "image: $((size / 1000000)) MB, built in $((SECONDS - began)) s without network"
}

check_hardening() {
    [ "$(inside id -u)" = 10001 ] || fail "the server does not run as uid 10001"
    ! inside sh -c 'touch /opt/bnrecal/x' 2> /dev/null || fail "the root file system is writable"
    inside grep -q '^CapEff:[[:space:]]0*$' /proc/1/status || fail "the server has capabilities"
    inside grep -q '^NoNewPrivs:[[:space:]]1$' /proc/1/status || fail "the server can gain privileges"
    ! inside python -c 'import torch' 2> /dev/null || fail "torch is in the image"
    inside python -c '
import json, urllib.request
workers = json.load(urllib.request.urlopen("http://127.0.0.1:8000/readyz"))["workers"]
active = {name for name, value in workers.items() if value is True}
required = {"rlimits", "parent_death_signal", "no_new_privs", "landlock", "seccomp"}
assert required <= active, workers
' || fail "the sandbox of the workers is incomplete"
    echo "hardening: uid 10001, read-only root, no capabilities, no new privileges, no network, no torch"
    echo "workers: rlimits, parent death signal, no_new_privs, landlock and seccomp in force"
}

run_digits() {
    mkdir -p "$SCRATCH/demo"
    cp -r "$ROOT/examples" "$SCRATCH/demo/"
    (cd "$ROOT" && "$PYTHON" -c '
import pathlib, sys
from examples.digits.data import load_sklearn_digits, save
save(load_sklearn_digits(), pathlib.Path(sys.argv[1]))' "$SCRATCH/demo/digits.npz")
    # Through a pipe: a bind mount requires that the engine shares the files of this machine.
    tar -C "$SCRATCH" -c demo | "$DOCKER" exec --interactive "$NAME" tar -C /tmp -x --no-same-owner
    echo
    "$DOCKER" exec --workdir /tmp/demo "$NAME" python -m examples.digits.demo \
        --server http://127.0.0.1:8000 --digits digits.npz || fail "the recalibration of the digits network"
    echo
}

check_restart() {
    "$DOCKER" restart --time 20 "$NAME" > /dev/null
    wait_healthy
    inside python -c '
import json, urllib.request
answer = urllib.request.urlopen("http://127.0.0.1:8000/v1/recalibrations")
assert [item["state"] for item in json.load(answer)["items"]] == ["succeeded"]
' || fail "the recalibration is missing after a restart"
    "$DOCKER" stop --time 20 "$NAME" > /dev/null
    local status
    status=$("$DOCKER" inspect --format '{{.State.ExitCode}}' "$NAME")
    [ "$status" = 0 ] || fail "the server stopped with status $status"
    "$DOCKER" rm "$NAME" > /dev/null
    echo "restart: the recalibration is kept; stop: status 0"
}

check_tokens() {
    if "$DOCKER" run --name "$NAME" "${HARDENED[@]}" --tmpfs /data:uid=10001,mode=700 \
        --env BNRECAL_HOST=0.0.0.0 "$IMAGE" > /dev/null 2>&1; then
        fail "the server listens on all addresses without a token"
    fi
    "$DOCKER" rm "$NAME" > /dev/null
    start --env "BNRECAL_TOKENS=$(printf %s secret | sha256sum | cut -d ' ' -f 1)"
    wait_healthy
    # Not a pipe: grep -q ends at its match, and pipefail would report the engine's broken pipe.
    local logs
    logs=$("$DOCKER" logs "$NAME" 2>&1)
    grep -q 'listening on http://0.0.0.0:8000' <<< "$logs" \
        || fail "the server does not listen on all addresses with a token"
    inside python -c '
import urllib.error, urllib.request
url = "http://127.0.0.1:8000/v1/recalibrations"
try:
    urllib.request.urlopen(url)
except urllib.error.HTTPError as error:
    assert error.code == 401, error.code
else:
    raise SystemExit("the server requires no token")
urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": "Bearer secret"}))
' || fail "the authentication"
    echo "tokens: no start without a token; 401 without, 200 with a token"
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
