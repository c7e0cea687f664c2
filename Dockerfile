# The package alone, without extras and thus without a package under the GPL.
#   docker build -t slivit .                                         for processors
#   docker build -t slivit --build-arg TORCH_BACKEND=cu128 .         for NVIDIA's GPUs; run it with --gpus all
#   docker run --rm -v "$PWD:/work" slivit finetune recipe.toml
FROM python:3.12-slim-bookworm

ARG TORCH_BACKEND=cpu
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_SYSTEM_PYTHON=1 PYTHONUNBUFFERED=1 MPLBACKEND=Agg

RUN pip install "uv>=0.8"
COPY . /opt/slivit
RUN uv pip install --torch-backend "$TORCH_BACKEND" /opt/slivit \
    && useradd --create-home --uid 1000 slivit \
    && install --directory --owner slivit /work

USER 1000
WORKDIR /work
ENTRYPOINT ["slivit"]
CMD ["--help"]
