# shellcheck shell=bash
# Inputs of the build: a Python image and the wheels. Sourced by test.sh.

# The defaults of the Dockerfile.
DEFAULT_PYTHON_IMAGE=$(sed -n 's/^ARG PYTHON_IMAGE=//p' "$ROOT/Dockerfile")
DEFAULT_BUILD_IMAGE=$(sed -n 's/^ARG BUILD_IMAGE=//p' "$ROOT/Dockerfile")
# Cache for the substitute of that image and for the wheels.
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/bnrecal
SUBSTITUTE_IMAGE=bnrecal-test-python
PULL_LIMIT_S=60

# Return whether an image is present or can be pulled.
_available() {
    "$DOCKER" image inspect "$1" > /dev/null 2>&1 ||
        timeout "$PULL_LIMIT_S" "$DOCKER" pull --quiet "$1" > /dev/null 2>&1
}

# Set PYTHON_IMAGE and BUILD_IMAGE: the defaults if they are available, otherwise one substitute for
# both from Debian packages, which is built once and cached.
images_python() {
    PYTHON_IMAGE=$DEFAULT_PYTHON_IMAGE BUILD_IMAGE=$DEFAULT_BUILD_IMAGE
    _available "$PYTHON_IMAGE" && _available "$BUILD_IMAGE" && return 0
    PYTHON_IMAGE=$SUBSTITUTE_IMAGE BUILD_IMAGE=$SUBSTITUTE_IMAGE
    echo "base: $DEFAULT_PYTHON_IMAGE cannot be pulled; using a substitute from Debian packages"
    local cached=$CACHE/debian-python-gcc.tar
    if [ ! -f "$cached" ]; then
        command -v mmdebstrap > /dev/null || { echo "mmdebstrap is missing" >&2; return 1; }
        mkdir -p "$CACHE"
        mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip,python3-dev,gcc,libc6-dev \
            bookworm "$SCRATCH/base.tar" || return 1
        mv "$SCRATCH/base.tar" "$cached"
    fi
    # An imported image has no PATH, and groupadd is in /usr/sbin.
    "$DOCKER" import \
        --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$cached" "$PYTHON_IMAGE" > /dev/null
}

# Build WHEELS_IMAGE: the wheels for the build, downloaded by the host's pip with the host's
# configuration, so that neither Dockerfile nor image contains an index. They are cached under a
# digest of the requirements.
images_wheels() {
    WHEELS_IMAGE=bnrecal-test-wheels
    local version arch digest cached
    version=$("$DOCKER" run --rm --network none "$PYTHON_IMAGE" \
        python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    arch=$("$DOCKER" version --format '{{.Server.Arch}}' | sed 's/amd64/x86_64/; s/arm64/aarch64/')
    "$PYTHON" "$ROOT/docker/requirements.py" --build --extra torch --extra ray > "$SCRATCH/requirements.txt"
    digest=$(cat "$SCRATCH/requirements.txt" "$ROOT/constraints.txt" - <<< "$version $arch" | sha256sum)
    cached=$CACHE/wheels-${digest:0:16}
    if [ ! -d "$cached" ]; then
        _wheels_fetch "$version" "$arch" || return 1
        mkdir -p "$CACHE"
        rm -rf "$CACHE"/wheels-*
        mv "$SCRATCH/wheels" "$cached"
    fi
    tar -C "$cached" -c . | "$DOCKER" import - "$WHEELS_IMAGE" > /dev/null
    echo "wheels: $(find "$cached" -name '*.whl' | wc -l) for Python $version on $arch"
}

_wheels_fetch() { # version arch
    local platforms=() minor name
    # All platform tags compatible with the C library of Debian 12, 2.36.
    for minor in $(seq 36 -1 5); do platforms+=(--platform "manylinux_2_${minor}_$2"); done
    for name in manylinux2014 manylinux2010 manylinux1; do platforms+=(--platform "${name}_$2"); done
    "$PYTHON" -m pip download --disable-pip-version-check --dest "$SCRATCH/wheels" \
        --only-binary :all: --implementation cp --python-version "$1" "${platforms[@]}" \
        --constraint "$ROOT/constraints.txt" --requirement "$SCRATCH/requirements.txt" \
        > "$SCRATCH/pip.log" 2>&1 || { tail -n 10 "$SCRATCH/pip.log" >&2; return 1; }
}
