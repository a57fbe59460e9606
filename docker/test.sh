#!/usr/bin/env bash
# Build images and start them with all hardening options: test.sh [slim] [torch] [ray], by default all.
# Recalibrate the digits network in the slim image, a .pt2 file in the image with torch, and the digits
# network in two shards on the Ray node of one container.
#
# Without a container engine it reports that and fails, or succeeds if BNRECAL_ALLOW_NO_ENGINE=1.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$ROOT/.venv/bin/python
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/bnrecal-docker.XXXXXX")
IMAGE= # of the target that is tested
# What the slim image adds to its base must not grow unnoticed.
SLIM_LIMIT_MB=335 # measured: 322
NAME=bnrecal-test-$$
HEALTHY_WAIT_S=60
HARDENED=(
    --network none --read-only --tmpfs /tmp:size=256m --cap-drop ALL
    --security-opt no-new-privileges --pids-limit 256
)
MEMORY=1g
COMMAND=() # of the container, instead of that of the image

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
    "$DOCKER" run --detach --name "$NAME" "${HARDENED[@]}" --memory "$MEMORY" --mount "type=volume,src=$NAME,dst=/data" \
        --health-interval 1s "$@" "$IMAGE" ${COMMAND[@]+"${COMMAND[@]}"} > /dev/null
}

wait_healthy() {
    local deadline=$((SECONDS + HEALTHY_WAIT_S))
    until [ "$("$DOCKER" inspect --format '{{.State.Health.Status}}' "$NAME")" = healthy ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "the server did not become healthy"
        sleep 0.3
    done
}

build() { # target: build it as IMAGE
    local began=$SECONDS size added
    IMAGE=bnrecal:test-$1
    if ! DOCKER_BUILDKIT=1 "$DOCKER" build --network none --progress plain --target "$1" --tag "$IMAGE" \
        --build-arg "PYTHON_IMAGE=$PYTHON_IMAGE" --build-arg "BUILD_IMAGE=$BUILD_IMAGE" \
        --build-arg "WHEELS_IMAGE=$WHEELS_IMAGE" \
        "$ROOT" > "$SCRATCH/build.log" 2>&1; then
        tail -n 30 "$SCRATCH/build.log" >&2
        echo "FAILED: building the image" >&2
        exit 1
    fi
    size=$("$DOCKER" image inspect --format '{{.Size}}' "$IMAGE")
    added=$("$DOCKER" run --rm --network none --entrypoint du "$IMAGE" -sm /opt/bnrecal | cut -f 1)
    echo "$1: $((size / 1000000)) MB, $added MiB beyond its base, built in $((SECONDS - began)) s without network"
    [ "$1" != slim ] || [ "$added" -le "$SLIM_LIMIT_MB" ] || fail "the slim image adds more than $SLIM_LIMIT_MB MiB"
}

check_hardening() {
    [ "$(inside id -u)" = 10001 ] || fail "the server does not run as uid 10001"
    ! inside sh -c 'touch /opt/bnrecal/x' 2> /dev/null || fail "the root file system is writable"
    inside grep -q '^CapEff:[[:space:]]0*$' /proc/1/status || fail "the server has capabilities"
    inside grep -q '^NoNewPrivs:[[:space:]]1$' /proc/1/status || fail "the server can gain privileges"
    inside python -c '
import json, urllib.request
workers = json.load(urllib.request.urlopen("http://127.0.0.1:8000/readyz"))["workers"]
active = {name for name, value in workers.items() if value is True}
required = {"rlimits", "parent_death_signal", "no_new_privs", "landlock", "seccomp"}
assert required <= active, workers
' || fail "the sandbox of the workers is incomplete"
    echo "hardening: uid 10001, read-only root, no capabilities, no new privileges, no network"
    echo "workers: rlimits, parent death signal, no_new_privs, landlock and seccomp in force"
}

# Export a network to .pt2 within the container, and recalibrate it on the server.
run_pt2() {
    inside python -c '
import warnings
from collections import OrderedDict
import numpy as np, torch
from torch import nn
from bnrecal_client import Client
warnings.simplefilter("ignore")
torch.manual_seed(0)
layers = {"conv": nn.Conv2d(3, 8, 3), "bn": nn.BatchNorm2d(8), "relu": nn.ReLU()}
network = nn.Sequential(OrderedDict(layers, pool=nn.AdaptiveAvgPool2d(1))).eval()
program = torch.export.export(network, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
torch.export.save(program, "/tmp/model.pt2")
batch = np.random.default_rng(0).normal(1, 2, (64, 3, 8, 8)).astype(np.float32)
done = Client("http://127.0.0.1:8000").recalibrate("/tmp/model.pt2", [batch], allow_mismatch=True, estimator="replace", progress=False)
(mean,) = (value for name, value in done.statistics.items() if name.endswith("mean"))
expected = network.conv(torch.from_numpy(batch)).mean((0, 2, 3)).detach().numpy()
np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)
' || fail "the recalibration of a .pt2 file"
    echo "torch: a .pt2 file was converted and recalibrated"
}

check_bill() { # names: the bill of materials of IMAGE must name these packages
    local path name
    path=$(cd "$ROOT" && DOCKER=$DOCKER "$PYTHON" -m tools.sbom --image "$IMAGE" --output "$SCRATCH") \
        || fail "the bill of materials"
    for name in "$@"; do
        grep -q "\"name\": \"$name\"" "$path" || fail "$name is missing in the bill of materials"
    done
    echo "bill of materials: $(grep -c '"purl"' "$path") packages"
}

remove() {
    "$DOCKER" rm --force "$NAME" > /dev/null
    "$DOCKER" volume rm --force "$NAME" > /dev/null
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
    if "$DOCKER" run --name "$NAME" "${HARDENED[@]}" --memory "$MEMORY" --tmpfs /data:uid=10001,mode=700 \
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
test_slim() {
    build slim
    check_bill onnxruntime bnrecal libc6
    start
    wait_healthy
    check_hardening
    ! inside python -c 'import torch' 2> /dev/null || fail "torch is in the slim image"
    run_digits
    check_restart
    check_tokens
    remove
}

test_torch() {
    build torch
    check_bill torch bnrecal libc6
    MEMORY=2g
    start --env BNRECAL_PT2=true
    wait_healthy
    check_hardening
    run_pt2
    remove
}

# A head with two CPUs in the server's own container. Ray starts hundreds of threads.
test_ray() {
    build ray
    check_bill ray bnrecal libc6
    MEMORY=4g
    COMMAND=(sh -c 'head -c 32 /dev/urandom | od -An -tx1 | tr -d " \n" > "$RAY_AUTH_TOKEN_PATH"
        ray start --head --node-ip-address=127.0.0.1 --num-cpus=2 --memory=2000000000 \
            --object-store-memory=80000000 --include-dashboard=false --disable-usage-stats
        exec python -m service')
    start --pids-limit 2048 --shm-size 128m --env RAY_AUTH_MODE=token \
        --env RAY_AUTH_TOKEN_PATH=/tmp/ray.token --env BNRECAL_RUNNER=ray --env BNRECAL_SHARDS=2 \
        --env BNRECAL_WORKER_MEMORY_BYTES=700000000 --env BNRECAL_WORKER_THREADS=1
    wait_healthy
    check_hardening
    run_digits
    local logs
    logs=$("$DOCKER" logs "$NAME" 2>&1)
    grep -q '"ray-connected"' <<< "$logs" || fail "the run was not measured on Ray"
    COMMAND=()
    remove
    echo "ray: the network was recalibrated in two shards on a Ray node with a token"
}

[ "$#" -gt 0 ] || set -- slim torch ray
for target in "$@"; do "test_$target"; done
echo "the container test passed"
