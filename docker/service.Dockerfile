# One service a build: --build-arg IMAGE=ingest|corpus|training|checkpoint|evaluation|gpuhealth|ingest-ray|corpus-ray
# The installed set is docker/requirements/IMAGE.txt, computed from the service's pyproject.toml and the lock.
# PYTHON_IMAGE is pinned to a patch release; give a digest (python@sha256:…) where builds must be repeatable to the bit.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG IMAGE
RUN test -n "${IMAGE}" || { echo "give --build-arg IMAGE=…" >&2; exit 1; }
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
COPY docker/requirements/${IMAGE}.txt /src/requirements.txt
RUN python -m venv /opt/longhaul \
 && /opt/longhaul/bin/pip install --no-cache-dir --no-deps --only-binary=:all: -r /src/requirements.txt
COPY libs/protos /src/libs/protos
COPY libs/core /src/libs/core
COPY services /src/services
RUN service="${IMAGE%-ray}" \
 && pip install --no-cache-dir "setuptools>=77" \
 && pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels \
      /src/libs/protos /src/libs/core "/src/services/${service}" \
 && /opt/longhaul/bin/pip install --no-cache-dir --no-deps /wheels/*.whl \
 && /opt/longhaul/bin/pip uninstall -q -y pip setuptools \
 && printf '#!/bin/sh\nexec /opt/longhaul/bin/python -m longhaul_%s "$@"\n' "${service}" > /opt/longhaul/bin/longhaul-service \
 && printf '#!/bin/sh\nexec /opt/longhaul/bin/python -m longhaul_core.rpc.check "${LONGHAUL_CHECK_ADDRESS:-${LONGHAUL_LISTEN_ADDRESS}}"\n' \
      > /opt/longhaul/bin/longhaul-check \
 && chmod 755 /opt/longhaul/bin/longhaul-service /opt/longhaul/bin/longhaul-check

FROM ${PYTHON_IMAGE}
ARG IMAGE
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="longhaul-${IMAGE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 longhaul && useradd --uid 10001 --gid 10001 --home-dir /home/longhaul --create-home longhaul \
 && install -d -o longhaul -g longhaul /data
COPY --from=build /opt/longhaul /opt/longhaul
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LONGHAUL_DATA_DIR=/data PATH=/opt/longhaul/bin:$PATH
WORKDIR /data
USER 10001:10001
# Kubernetes probes the gRPC health service itself; this is for compose and plain engines.
HEALTHCHECK --interval=10s --timeout=25s --start-period=20s --retries=3 CMD ["/opt/longhaul/bin/longhaul-check"]
ENTRYPOINT ["/opt/longhaul/bin/longhaul-service"]
