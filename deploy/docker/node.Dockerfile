# What a node runs beside engines: the watcher, and the command line. In the repository's root:
#     docker build -f deploy/docker/node.Dockerfile -t aotcache-node .
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY deploy/requirements-node.lock deploy/requirements-build.lock ./
RUN pip install --no-cache-dir --no-compile --require-hashes --target /build -r requirements-build.lock \
    && python3 -m venv /opt/aotcache \
    && /opt/aotcache/bin/pip install --no-cache-dir --require-hashes -r requirements-node.lock
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY service service
RUN PYTHONPATH=/build python3 -m hatchling build -t wheel -d /wheel \
    && /opt/aotcache/bin/pip install --no-cache-dir --no-deps /wheel/*.whl \
    && /opt/aotcache/bin/pip uninstall --yes pip setuptools

# Nothing is written but below the cache root: the root may be read-only. The watcher has to read what
# the engines write, so run it as their user.
FROM ${BASE}
COPY --from=build /opt/aotcache /opt/aotcache
RUN install -d -o 10001 -g 10001 /cache
ENV PATH=/opt/aotcache/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    VLLM_CACHE_ROOT=/cache
USER 10001:10001
ENTRYPOINT ["aotcache"]
CMD ["watch"]
