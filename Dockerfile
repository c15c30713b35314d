# docker build -t mabench .                                               processor
# docker build -t mabench --build-arg BASE=pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime .   CUDA
# docker run --rm -v "$PWD:/work" mabench demo
ARG BASE=python:3.11-slim
FROM ${BASE}
COPY pyproject.toml README.md LICENSE /src/
COPY mabench /src/mabench
COPY methods /src/methods
RUN pip install --no-cache-dir /src && rm -r /src
ENV MABENCH_CACHE=/cache/mabench HF_HOME=/cache/huggingface
RUN mkdir -p /cache && chmod 1777 /cache
WORKDIR /work
ENTRYPOINT ["mabench"]
CMD ["demo"]
