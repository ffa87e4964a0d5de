# The service. In the repository's root:
#     docker build -f deploy/docker/service.Dockerfile -t aotcache-service .
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY deploy/requirements.lock deploy/requirements-build.lock ./
RUN pip install --no-cache-dir --no-compile --require-hashes --target /build -r requirements-build.lock \
    && python3 -m venv /opt/aotcache \
    && /opt/aotcache/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY service service
RUN PYTHONPATH=/build python3 -m hatchling build -t wheel -d /wheel \
    && /opt/aotcache/bin/pip install --no-cache-dir --no-deps /wheel/*.whl \
    && /opt/aotcache/bin/pip uninstall --yes pip setuptools

# Nothing is written but below /var/lib/aotcache: the root may be read-only.
FROM ${BASE}
COPY --from=build /opt/aotcache /opt/aotcache
RUN install -d -o 10001 -g 10001 /var/lib/aotcache
ENV PATH=/opt/aotcache/bin:$PATH \
    HOME=/var/lib/aotcache \
    PYTHONDONTWRITEBYTECODE=1 \
    AOTCACHE_DATA_DIR=/var/lib/aotcache
USER 10001:10001
EXPOSE 8750
ENTRYPOINT ["aotcache"]
CMD ["serve", "--host", "0.0.0.0"]
