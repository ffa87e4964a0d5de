# The vLLM plugin as a directory, for images that stay as they are (docs/vllm.md). In the repository's root, with the
# Python of the engine's image:
#     docker build -f deploy/docker/plugin.Dockerfile --build-arg BASE=python:3.12.11-slim-bookworm -t aotcache-plugin .
ARG BASE=python:3.12.11-slim-bookworm
ARG CARRIER=busybox:1.37.0

FROM ${BASE} AS build
WORKDIR /src
COPY deploy/requirements-plugin.lock deploy/requirements-build.lock ./
RUN pip install --no-cache-dir --no-compile --require-hashes --target /build -r requirements-build.lock \
    && pip install --no-cache-dir --no-deps --require-hashes --target /aotcache -r requirements-plugin.lock
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY service service
RUN PYTHONPATH=/build python3 -m hatchling build -t wheel -d /wheel \
    && pip install --no-cache-dir --no-deps --target /aotcache /wheel/*.whl

FROM ${CARRIER}
COPY --from=build /aotcache /aotcache
USER 10001:10001
CMD ["cp", "-r", "/aotcache/.", "/opt/aotcache"]
