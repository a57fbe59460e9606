# shellcheck shell=bash
# Find a container engine, or start one in a temporary folder. Sourced by test.sh, which sets SCRATCH.
#
#   engine_find    use a running engine; otherwise start one (requires Debian and root)
#   engine_stop    stop the engine if engine_find started it
#
# engine_find sets DOCKER to the client command.

ENGINE_PID=
ENGINE_WAIT_S=60

engine_find() {
    if _client_find && "$DOCKER" info > /dev/null 2>&1; then
        echo "engine: already running"
        return 0
    fi
    [ "$(id -u)" -eq 0 ] || { echo "no container engine is running, and starting one requires root" >&2; return 1; }
    _engine_install || return 1
    _engine_start || return 1
    _client_find
}

# Select the first client that can build with BuildKit. Since version 23 this requires a plug-in, which
# a standalone binary on the PATH does not have.
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
    command -v apt-get > /dev/null || { echo "no container engine is installed, and apt-get is missing" >&2; return 1; }
    echo "engine: installing docker.io and mmdebstrap"
    { apt-get update && apt-get install -y --no-install-recommends docker.io mmdebstrap; } \
        > "$SCRATCH/apt.log" 2>&1 || { tail -n 5 "$SCRATCH/apt.log" >&2; return 1; }
    hash -r
}

_engine_start() {
    local folder=$SCRATCH/engine deadline
    mkdir -p "$folder"
    export DOCKER_HOST=unix://$folder/docker.sock
    # No bridge and no firewall rules: the test uses no network and leaves the machine unchanged.
    dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" \
        --pidfile "$folder/pid" --iptables=false --ip6tables=false --bridge=none \
        > "$folder/log" 2>&1 &
    ENGINE_PID=$!
    deadline=$((SECONDS + ENGINE_WAIT_S))
    until _client_find && "$DOCKER" info > /dev/null 2>&1; do
        if ! kill -0 "$ENGINE_PID" 2> /dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            echo "the engine did not start; end of its log:" >&2
            tail -n 5 "$folder/log" >&2
            return 1
        fi
        sleep 0.2
    done
    echo "engine: started in a temporary folder ($("$DOCKER" info --format '{{.ServerVersion}}, {{.Driver}}'))"
}

engine_stop() {
    [ -n "$ENGINE_PID" ] || return 0
    kill "$ENGINE_PID" 2> /dev/null || true
    wait "$ENGINE_PID" 2> /dev/null || true
    ENGINE_PID=
}
