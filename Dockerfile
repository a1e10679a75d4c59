# MLX Server Nano on a Linux machine's CPU. Models live in the volume /models.
#
#   docker build -t mlx-server-nano .
#   docker run --rm -p 127.0.0.1:8000:8000 -v models:/models mlx-server-nano
FROM python:3.13-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/server && /opt/server/bin/pip install --no-cache-dir .

FROM python:3.13-slim
# OpenBLAS takes the place of the reference BLAS that MLX's wheels carry; g++ is what MLX compiles CPU kernels with.
RUN apt-get update && apt-get install -y --no-install-recommends libopenblas0-pthread g++ && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home server && mkdir /models && chown server /models
COPY --from=build /opt/server /opt/server
USER server
ENV HF_HOME=/models PATH=/opt/server/bin:$PATH
VOLUME /models
EXPOSE 8000
HEALTHCHECK --start-period=10s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["mlx-server-nano"]
CMD ["--host", "0.0.0.0"]
