# The server in three images: `slim` (the default) with the ONNX engine; `torch`, which also accepts
# .pt2 files; `ray` for runners and nodes of a Ray cluster. docs/container.md explains how to build and run them.

# Any image with Python 3.11 or newer.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
# The same Python and C library with venv, pip, a C compiler and the headers of Python.
ARG BUILD_IMAGE=python:3.11-bookworm
# An image that contains only wheels, for a build without a package index; see docs/container.md.
ARG WHEELS_IMAGE=scratch

FROM ${WHEELS_IMAGE} AS wheels

FROM ${BUILD_IMAGE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/build/constraints.txt BNRECAL_REQUIRE_COMPILER=1
RUN python3 -m venv --without-pip /opt/bnrecal

# The dependencies are large and change rarely: a separate layer, before the source.
COPY constraints.txt pyproject.toml ./
COPY clients/python/pyproject.toml clients/python/
COPY docker/requirements.py docker/install.sh docker/
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=bind,from=wheels,target=/wheels \
    python3 docker/requirements.py > requirements.txt \
    && sh docker/install.sh --requirement requirements.txt

COPY README.md CHANGELOG.md LICENSE hatch_build.py ./
COPY bn_ops bn_ops
COPY service service
COPY clients/python clients/python
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=bind,from=wheels,target=/wheels \
    sh docker/install.sh --no-deps . ./clients/python

FROM build AS build-torch
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=bind,from=wheels,target=/wheels \
    python3 docker/requirements.py --extra torch > torch.txt \
    && sh docker/install.sh --requirement torch.txt

FROM build AS build-ray
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=bind,from=wheels,target=/wheels \
    python3 docker/requirements.py --extra ray > ray.txt \
    && sh docker/install.sh --requirement ray.txt

FROM ${PYTHON_IMAGE} AS runtime
LABEL org.opencontainers.image.title="bnrecal" \
      org.opencontainers.image.description="Exact BatchNorm recalibration: statistics, fold, verify, ONNX." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 bnrecal \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin bnrecal \
    && install -d -o 10001 -g 10001 -m 0700 /data
# HOME is the tmpfs: files that libraries write to the home folder are discarded.
ENV PATH=/opt/bnrecal/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    BNRECAL_DATA_DIR=/data
USER 10001:10001
WORKDIR /tmp
VOLUME ["/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "/opt/bnrecal/docker/healthcheck.py"]
ENTRYPOINT ["sh", "/opt/bnrecal/docker/entrypoint.sh"]
CMD ["python", "-m", "service"]

FROM runtime AS torch
COPY --from=build-torch /opt/bnrecal /opt/bnrecal
COPY docker/entrypoint.sh docker/healthcheck.py /opt/bnrecal/docker/

FROM runtime AS ray
COPY --from=build-ray /opt/bnrecal /opt/bnrecal
COPY docker/entrypoint.sh docker/healthcheck.py /opt/bnrecal/docker/

FROM runtime AS slim
COPY --from=build /opt/bnrecal /opt/bnrecal
COPY docker/entrypoint.sh docker/healthcheck.py /opt/bnrecal/docker/
