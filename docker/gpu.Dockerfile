# asr-serve for machines with NVIDIA GPUs, amd64. Qwen3-ASR runs in vLLM.
#
#   docker build -f docker/gpu.Dockerfile -t asr-serve:0.1.0-gpu .
#
# With models of full size in it, instead of mounted at /models:
#
#   docker build -f docker/gpu.Dockerfile -t asr-serve:0.1.0-gpu --build-arg MODELS="--profile gpu" .
#
# CUDA comes with Python's packages; of the host, the driver is used. docs/deployment.md tells what may be set.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm


FROM ${PYTHON_IMAGE} AS base

# tini: Ray leaves processes behind for process 1 to collect. wget: probes, KubeRay's among them.
# hadolint ignore=DL3008  # of a stable release, versions only move for fixes
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini wget \
    && rm -rf /var/lib/apt/lists/*

# Who runs the image by another number belongs to group 0, and may write where `asr` may. The links are for those who
# mount caches of hubs where root had them, in other projects' images.
RUN useradd --uid 1000 --user-group --create-home --home-dir /home/asr --shell /bin/bash asr \
    && mkdir -p /app /data /models/modelscope /models/huggingface /root/.cache \
    && chown -R asr:0 /data /models /home/asr \
    && chmod -R g+rwX /data /models /home/asr \
    && ln -s /models/modelscope /models/huggingface /root/.cache/ \
    && chmod 711 /root

ENV PATH=/opt/asr/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    HOME=/home/asr \
    DATA_DIR=/data \
    MODELSCOPE_PATH=/models/modelscope/hub/models \
    MODELSCOPE_CACHE=/models/modelscope \
    HF_HOME=/models/huggingface

WORKDIR /app


FROM base AS build

# A few packages have no wheels.
# hadolint ignore=DL3008  # of a stable release, versions only move for fixes
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1

RUN python3 -m venv /opt/asr

# What the service needs, without the service: its code comes last, and changes nothing in here. Nor do the two texts,
# which must be there.
ARG EXTRAS=vllm,postgres,redis
COPY docker/gpu.constraints.txt pyproject.toml ./
RUN touch README.md LICENSE \
    && python -m pip install -c gpu.constraints.txt --config-settings editable_mode=compat -e ".[$EXTRAS]"

# What Python compiles is kept, since nobody can write here later. A few packages have files for later versions of Python
# in them, which this one cannot compile.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(pip|rllib|tests|SelfTest|_internal|modelscope/(models|pipelines|trainers))/' /opt/asr/lib || true


FROM base AS service

# Triton builds what starts its kernels while the service runs, with a C compiler.
# hadolint ignore=DL3008  # of a stable release, versions only move for fixes
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# What NVIDIA's container toolkit gives to the container: the GPUs, CUDA and nvidia-smi.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    ASR_HARDWARE=gpu

COPY --from=build /opt/asr /opt/asr
COPY LICENSE README.md pyproject.toml serve_config.yaml ./
COPY samples samples
COPY models/starter models/starter
COPY configs configs
COPY deployments deployments
COPY serve_app serve_app
COPY docker/entrypoint.sh /usr/local/bin/asr-entrypoint

USER 1000
# What is served, what FunASR's clients connect to, metrics of the service and of the edge.
EXPOSE 8000 10095 8080 8405
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=10m --interval=10s --timeout=5s --retries=3 \
    CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8000/readyz"]
ENTRYPOINT ["tini", "--", "asr-entrypoint"]
CMD ["asr-serve", "serve"]


FROM service AS models

# What `asr-serve models pull` takes: names, or --profile and one.
ARG MODELS=
ARG MODELSCOPE_ENDPOINT
ARG HF_ENDPOINT
# hadolint ignore=SC2086  # several words
RUN if [ -n "$MODELS" ]; then asr-serve models pull $MODELS; fi


FROM service

COPY --from=models --chown=1000:0 /models /models

LABEL org.opencontainers.image.title="asr-serve" \
    org.opencontainers.image.description="Speech recognition for files and streams, on NVIDIA GPUs" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="MIT"
