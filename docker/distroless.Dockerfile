# Distroless: PyInstaller freezes the app with its interpreter, so the image needs no Python, no shell and no package
# manager, only libc. The price: nothing to look around with inside, and a build that must say what the app imports.
ARG PYTHON=python:3.13-slim-trixie
ARG RUNTIME=gcr.io/distroless/base-nossl-debian13:nonroot

FROM ${PYTHON} AS build

# PyInstaller reads and strips libraries with binutils, which the slim image leaves out. Not pinned: Debian serves one
# version at a time, and nothing of it enters the image.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*

# Dependencies before code: they change less often, so a code change builds anew from below this step alone. No WORKDIR
# above, which would date a folder by the commit.
RUN --mount=type=bind,source=requirements,target=/tmp/requirements --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes -r /tmp/requirements/app.txt -r /tmp/requirements/freeze.txt

# The stock bootloader needs zlib, which the runtime image does not have: let it look among the bundled libraries.
# $ORIGIN is for the loader to expand, not for the shell.
# hadolint ignore=SC2016
RUN patchelf --set-rpath '$ORIGIN/_internal' /usr/local/lib/python3.*/site-packages/PyInstaller/bootloader/*/run

# Columns in tracebacks point into source lines, which a frozen app has not: without them the bytecode is smaller.
ENV PYTHONNODEBUGRANGES=1 PYINSTALLER_ZLIB_COMPRESSION_LEVEL=9
# The order of sets fixed, and all files dated 1970, so that the same source gives the same bytes. Not dated by commit:
# the builder's cache does not look at dates, and would bring back an older commit's.
ENV PYTHONHASHSEED=0
WORKDIR /build
COPY LICENSE NOTICE ./
COPY requirements/app.txt requirements/
COPY docker/geoip.spec docker/record.py docker/
COPY app app
RUN pyinstaller --log-level ERROR --distpath /image --workpath work docker/geoip.spec && \
    python docker/record.py /image work/geoip/libraries.txt && \
    find /image/app/_internal -type f -exec chmod 644 {} + && \
    find /image -exec touch -h -d @0 {} +

FROM ${RUNTIME}
COPY --link --from=build /image/ /
WORKDIR /app
USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 8080
# The app asks itself: there is no curl in here.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --start-interval=1s CMD ["/app/geoip", "healthcheck"]
ENTRYPOINT ["/app/geoip"]

ARG VERSION= REVISION= SOURCE= RUNTIME
LABEL org.opencontainers.image.title="geoip" \
      org.opencontainers.image.description="A reference geo-IP API, frozen on distroless" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${RUNTIME}"
