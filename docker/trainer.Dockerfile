# The training pods: agent, workers, and the short tasks (score, export, burn-in).
# torch goes first and by itself, so that it brings the libraries of its build: CUDA from the default index, or
# --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu for machines without a GPU.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
COPY docker/requirements/trainer.txt /src/requirements.txt
RUN python -m venv /opt/longhaul \
 && /opt/longhaul/bin/pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} \
      "$(grep '^torch==' /src/requirements.txt)"
RUN grep -v '^torch==' /src/requirements.txt > /src/others.txt \
 && /opt/longhaul/bin/pip install --no-cache-dir --no-deps -r /src/others.txt
COPY libs/protos /src/libs/protos
COPY libs/core /src/libs/core
COPY services/trainer /src/services/trainer
RUN pip install --no-cache-dir "setuptools>=77" \
 && pip wheel --no-cache-dir --no-deps --no-build-isolation -w /wheels \
      /src/libs/protos /src/libs/core /src/services/trainer \
 && /opt/longhaul/bin/pip install --no-cache-dir --no-deps /wheels/*.whl

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="longhaul-trainer" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# torch.compile calls a C++ compiler at run time.
RUN apt-get update && apt-get install -y --no-install-recommends g++ libgomp1 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 longhaul && useradd --uid 10001 --gid 10001 --home-dir /home/longhaul --create-home longhaul \
 && install -d -o longhaul -g longhaul /scratch
COPY --from=build /opt/longhaul /opt/longhaul
# Its digest is recorded with each checkpoint.
COPY docker/requirements/trainer.txt /usr/share/longhaul/requirements.lock
# The root is read-only in a pod: every cache lies on the scratch volume.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/longhaul/bin:$PATH HOME=/scratch \
    TORCHINDUCTOR_CACHE_DIR=/scratch/inductor TRITON_CACHE_DIR=/scratch/triton
WORKDIR /scratch
USER 10001:10001
ENTRYPOINT ["/opt/longhaul/bin/python", "-m", "longhaul_trainer.agent"]
