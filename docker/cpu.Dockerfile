# asr-serve for machines without a GPU, amd64 and arm64.
#
#   docker build -f docker/cpu.Dockerfile -t asr-serve:0.1.0-cpu .
#
# With models of full size in it, instead of mounted at /models:
#
#   docker build -f docker/cpu.Dockerfile -t asr-serve:0.1.0-cpu --build-arg MODELS="--profile cpu" .
#
# docs/deployment.md tells what may be set.

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

# A few packages have no wheels, some of them only on arm64.
# hadolint ignore=DL3008  # of a stable release, versions only move for fixes
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1

RUN python3 -m venv /opt/asr

# Address of PyTorch's own index of builds for CPUs: a tenth the size of the build with CUDA that pip takes by itself on
# amd64. pytorch.org tells it under "Get Started".
ARG TORCH_INDEX=
COPY constraints.txt ./
RUN python -m pip install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch

# What the service needs, without the service: its code comes last, and changes nothing in here. Nor do the two texts,
# which must be there.
ARG EXTRAS=qwen,postgres,redis
COPY pyproject.toml ./
RUN touch README.md LICENSE \
    && python -m pip install -c constraints.txt --config-settings editable_mode=compat -e ".[$EXTRAS]"

# Tests of packages, and what C++ and Java programs would need, are left out. What Python compiles is kept, since nobody
# can write here later.
RUN find /opt/asr/lib -type d '(' -name tests -o -name test ')' -prune -exec rm -rf {} + \
    && rm -rf /opt/asr/lib/python3.*/site-packages/torch/include \
        /opt/asr/lib/python3.*/site-packages/torch/share \
        /opt/asr/lib/python3.*/site-packages/torch/bin/test_* \
        /opt/asr/lib/python3.*/site-packages/ray/jars \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(gradio|Cython|pip|rllib|physics|SelfTest|_internal|modelscope/(models|pipelines|trainers))/' /opt/asr/lib


FROM base AS service

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
    org.opencontainers.image.description="Speech recognition for files and streams, without a GPU" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="MIT"
