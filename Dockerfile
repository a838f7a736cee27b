# For GPU nodes:  docker build -t align .
#                 docker run --gpus all --shm-size 8g --user "$(id -u):$(id -g)" --env HOME=/tmp \
#                     --volume "$PWD:/data" --workdir /data align run my.yaml
# torch's wheel brings its own CUDA libraries; the image only has to tell the driver what it needs.
ARG IMAGE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${IMAGE}

# gcc: triton compiles a small launcher for its kernels when they are first used
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      gcc libc6-dev make python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 align
USER align
WORKDIR /home/align/work
ENV PATH=/home/align/work/.venv/bin:$PATH PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# What changes seldom comes first: a change to the code does not install torch again.
COPY --chown=align:align constraints.txt Makefile ./
RUN make .venv/.torch
COPY --chown=align:align . .
RUN make setup

ENTRYPOINT ["align"]
CMD ["--help"]
