# shellcheck shell=bash
# What the build stands on: a Python image and the wheels. Sourced by test.sh.

# The name that the Dockerfile gives as default.
DEFAULT_PYTHON_IMAGE=$(sed -n 's/^ARG PYTHON_IMAGE=//p' "$ROOT/Dockerfile")
# What is made once: the stand-in for that image, and the wheels.
KEPT=${XDG_CACHE_HOME:-$HOME/.cache}/bnrecal
STAND_IN_IMAGE=bnrecal-test-python
PULL_LIMIT_S=60

# Set PYTHON_IMAGE: the default where it is here or can be pulled, else a stand-in from Debian
# packages, which is made once and kept.
images_python() {
    PYTHON_IMAGE=$DEFAULT_PYTHON_IMAGE
    "$DOCKER" image inspect "$PYTHON_IMAGE" > /dev/null 2>&1 && return 0
    timeout "$PULL_LIMIT_S" "$DOCKER" pull --quiet "$PYTHON_IMAGE" > /dev/null 2>&1 && return 0
    PYTHON_IMAGE=$STAND_IN_IMAGE
    echo "base: $DEFAULT_PYTHON_IMAGE cannot be pulled; a stand-in from Debian packages takes its place"
    local kept=$KEPT/debian-python.tar
    if [ ! -f "$kept" ]; then
        command -v mmdebstrap > /dev/null || { echo "mmdebstrap is missing" >&2; return 1; }
        mkdir -p "$KEPT"
        mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
            bookworm "$SCRATCH/base.tar" || return 1
        mv "$SCRATCH/base.tar" "$kept"
    fi
    # An imported image has no PATH of its own, and groupadd is in /usr/sbin.
    "$DOCKER" import \
        --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$kept" "$PYTHON_IMAGE" > /dev/null
}

# Make WHEELS_IMAGE: the wheels that the build needs, fetched by the pip of this machine with the
# configuration of this machine, so that neither Dockerfile nor image knows an index. They are kept
# for the next run under a digest of what was asked for.
images_wheels() {
    WHEELS_IMAGE=bnrecal-test-wheels
    local version arch asked kept
    version=$("$DOCKER" run --rm --network none "$PYTHON_IMAGE" \
        python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    arch=$("$DOCKER" version --format '{{.Server.Arch}}' | sed 's/amd64/x86_64/; s/arm64/aarch64/')
    "$PYTHON" "$ROOT/docker/requirements.py" --build > "$SCRATCH/requirements.txt"
    asked=$(cat "$SCRATCH/requirements.txt" "$ROOT/constraints.txt" - <<< "$version $arch" | sha256sum)
    kept=$KEPT/wheels-${asked:0:16}
    if [ ! -d "$kept" ]; then
        _wheels_fetch "$version" "$arch" || return 1
        mkdir -p "$KEPT"
        rm -rf "$KEPT"/wheels-*
        mv "$SCRATCH/wheels" "$kept"
    fi
    tar -C "$kept" -c . | "$DOCKER" import - "$WHEELS_IMAGE" > /dev/null
    echo "wheels: $(find "$kept" -name '*.whl' | wc -l) for Python $version on $arch"
}

_wheels_fetch() { # version arch
    local platforms=() minor name
    # Every platform tag that runs with Debian 12's C library, 2.36.
    for minor in $(seq 36 -1 5); do platforms+=(--platform "manylinux_2_${minor}_$2"); done
    for name in manylinux2014 manylinux2010 manylinux1; do platforms+=(--platform "${name}_$2"); done
    "$PYTHON" -m pip download --disable-pip-version-check --dest "$SCRATCH/wheels" \
        --only-binary :all: --implementation cp --python-version "$1" "${platforms[@]}" \
        --constraint "$ROOT/constraints.txt" --requirement "$SCRATCH/requirements.txt" \
        > "$SCRATCH/pip.log" 2>&1 || { tail -n 10 "$SCRATCH/pip.log" >&2; return 1; }
}
