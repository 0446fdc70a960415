# Debian buster: where everyone starts. One stage is the shortest way to an image, and keeps compilers, package managers
# and all that pip has written; two stages drop what only the build needs. The price of both is the distribution: buster
# has been at its end of life since June 2024, nothing in it is repaired, and its archive has moved, so no apt-get.
ARG PYTHON=python:3.11-buster
ARG RUNTIME=python:3.11-slim-buster

# One stage: the base image, what pip installs and the code, as it comes. But for the bytecode of redis, two thirds of
# what it takes: only who has a shared cache imports it, and waits a moment longer for the start.
FROM ${PYTHON} AS single

# Two builds are to give the same bytes: the order of sets is fixed, bytecode knows its source by hash and not by time,
# and what a step wrote, which is what the last hour changed, is dated 1970. Not by commit: the builder's cache does not
# look at dates, and would bring back an older commit's. ARG, not ENV: the service itself runs with random hashes.
ARG PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1

# Dependencies before code: they change less often, so a code change builds anew from below this step alone. No WORKDIR
# above, which would date a folder by the commit; and mounts below /tmp, since others may leave a folder with a new date.
# DL3042 knows a cache mount by its usual place alone.
# hadolint ignore=DL3042
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=requirements/app.txt,target=/tmp/app.txt \
    --mount=type=cache,target=/tmp/pip \
    SOURCE_DATE_EPOCH=0 pip install --cache-dir /tmp/pip --require-hashes -r /tmp/app.txt && \
    find /usr/local/lib -path '*/redis/*' -name __pycache__ -exec rm -r {} + && \
    find /usr -xdev -mmin -60 -exec touch -h -d @0 {} +

# The base image has no bytecode of the standard library, and a read-only root no place for it: made here.
WORKDIR /srv
COPY LICENSE NOTICE ./
COPY app app
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=docker/bytecode.py,target=/tmp/bytecode.py \
    chmod -R u=rwX,go=rX . && \
    python /tmp/bytecode.py / && \
    find /srv /usr -xdev \( -mmin -60 -o -path '/srv*' \) -exec touch -h -d @0 {} +

USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 8080
# The app asks itself, in Python: the base images of these six have no curl in common.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --start-interval=1s \
    CMD ["python", "-m", "app", "healthcheck"]
ENTRYPOINT ["python", "-m", "app"]
ARG VERSION= REVISION= SOURCE= PYTHON
LABEL org.opencontainers.image.title="geoip" \
      org.opencontainers.image.description="A reference geo-IP API on Debian buster, in one stage" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${PYTHON}"


# Two stages: the first gathers in /image what the base image lacks, cleaned up; the second copies that in one layer.
FROM ${PYTHON} AS build

# Without the columns that tracebacks point to, bytecode is a quarter smaller, compressed; most of it will have no source
# to point into, and the app's tracebacks have their lines all the same.
ARG PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 PYTHONNODEBUGRANGES=1
# Left out: command lines, types, build sources, symbols; certifi's CA bundle, since the base image has one; pydantic 1,
# 1 MB that is imported where it is found and not missed where not; and what redis has for databases that are no cache.
# The folder is named after the version of Python, which WORKDIR cannot find.
# hadolint ignore=DL3003
RUN --mount=type=bind,source=requirements/app.txt,target=/tmp/app.txt --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --no-compile --root /image -r /tmp/app.txt && \
    rm -r /image/usr/local/bin && \
    cd /image/usr/local/lib/python3.*/site-packages && \
    rm -r pydantic/v1 redis/multidb redis/asyncio/multidb redis/commands/bf redis/commands/json redis/commands/search \
      redis/commands/timeseries redis/commands/vectorset && \
    find . \( -name '*.py[xi]' -o -name '*.pxd' -o -name cacert.pem \) -exec rm {} + && \
    find . -name '*.so*' -exec strip {} +

COPY LICENSE NOTICE /image/srv/
COPY app /image/srv/app
RUN --mount=type=bind,source=docker/bytecode.py,target=/tmp/bytecode.py \
    chmod -R u=rwX,go=rX /image && \
    GEOIP_CACHE_URL=redis://localhost:9 python /tmp/bytecode.py /image && \
    find /image -exec touch -h -d @0 {} +

FROM ${RUNTIME}
COPY --link --from=build /image/ /
WORKDIR /srv
USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --start-interval=1s \
    CMD ["python", "-m", "app", "healthcheck"]
ENTRYPOINT ["python", "-m", "app"]
ARG VERSION= REVISION= SOURCE= RUNTIME
LABEL org.opencontainers.image.title="geoip" \
      org.opencontainers.image.description="A reference geo-IP API on Debian buster, without what only its build needs" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${RUNTIME}"
