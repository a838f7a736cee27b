# For GPU nodes:  docker build -t align .
#                 docker run --gpus all --shm-size 8g --user "$(id -u):$(id -g)" \
#                     --volume "$PWD:/data" --workdir /data align run my.yaml
# torch's wheel brings its own CUDA libraries; the image only tells the driver what they need. CUDA 13.0 is what
# the pinned torch 2.13.0 is built for, and wants a driver from 580 on (`align doctor` in the container says what
# torch sees). For an older driver: another torch in constraints.txt, from PyTorch's index for its CUDA, and
# --build-arg IMAGE=nvidia/cuda:12.8.1-base-ubuntu24.04.
ARG IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04
FROM ${IMAGE}

# gcc: triton compiles a small launcher for its kernels when they are first used
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      gcc libc6-dev make python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

# Read-only for whoever runs it, under any number (--user): what is written at run time goes to HOME and to the
# mounted folder. Without a name, Python could not tell torch whose cache it is.
WORKDIR /opt/align
ENV PATH=/opt/align/.venv/bin:$PATH HOME=/tmp USER=align LOGNAME=align \
    PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# What changes seldom comes first: a change to the code does not install torch again.
COPY constraints.txt Makefile ./
RUN make .venv/.torch
COPY . .
RUN make setup && chmod -R a+rX /opt/align

RUN useradd --create-home --uid 10001 align
USER align
WORKDIR /data
ENTRYPOINT ["align"]
CMD ["--help"]
