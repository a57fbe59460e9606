# shellcheck shell=bash
# Find a container engine, or start one in a scratch folder. Sourced by test.sh, which sets SCRATCH.
#
#   engine_find    uses the engine that answers already; otherwise starts one (needs root on Debian)
#   engine_stop    ends what engine_find started and nothing else
#
# After engine_find, DOCKER is the client to call.

ENGINE_PID=
ENGINE_WAIT_S=60

engine_find() {
    if _client_find && "$DOCKER" info > /dev/null 2>&1; then
        echo "engine: the one that answers already"
        return 0
    fi
    [ "$(id -u)" -eq 0 ] || { echo "no engine answers, and only root can start one" >&2; return 1; }
    _engine_install || return 1
    _engine_start || return 1
    _client_find
}

# Take the first client that can build with BuildKit: since version 23 that needs a plug-in, which a
# lone binary on the PATH lacks.
_client_find() {
    local candidate version
    while read -r candidate; do
        version=$("$candidate" version --format '{{.Client.Version}}' 2> /dev/null | head -n 1)
        if [ "${version%%.*}" -lt 23 ] 2> /dev/null || "$candidate" buildx version > /dev/null 2>&1; then
            DOCKER=$candidate
            return 0
        fi
    done < <(type -a -p docker)
    return 1
}

_engine_install() {
    if _client_find && command -v dockerd > /dev/null && command -v mmdebstrap > /dev/null; then
        return 0
    fi
    command -v apt-get > /dev/null || { echo "no engine is installed, and no apt-get to do so" >&2; return 1; }
    echo "engine: installing docker.io and mmdebstrap"
    { apt-get update && apt-get install -y --no-install-recommends docker.io mmdebstrap; } \
        > "$SCRATCH/apt.log" 2>&1 || { tail -n 5 "$SCRATCH/apt.log" >&2; return 1; }
    hash -r
}

_engine_start() {
    local folder=$SCRATCH/engine deadline
    mkdir -p "$folder"
    export DOCKER_HOST=unix://$folder/docker.sock
    # No bridge and no firewall rules: the test needs no network, and the machine stays as it is.
    dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" \
        --pidfile "$folder/pid" --iptables=false --ip6tables=false --bridge=none \
        > "$folder/log" 2>&1 &
    ENGINE_PID=$!
    deadline=$((SECONDS + ENGINE_WAIT_S))
    until _client_find && "$DOCKER" info > /dev/null 2>&1; do
        if ! kill -0 "$ENGINE_PID" 2> /dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            echo "the engine does not start; the end of its log:" >&2
            tail -n 5 "$folder/log" >&2
            return 1
        fi
        sleep 0.2
    done
    echo "engine: started in a scratch folder ($("$DOCKER" info --format '{{.ServerVersion}}, {{.Driver}}'))"
}

engine_stop() {
    [ -n "$ENGINE_PID" ] || return 0
    kill "$ENGINE_PID" 2> /dev/null || true
    wait "$ENGINE_PID" 2> /dev/null || true
    ENGINE_PID=
}
