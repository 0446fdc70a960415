# Distroless, frozen: PyInstaller packs the app with its interpreter, and leaves out what the app does not import. The
# price: an import that its analysis cannot see must be named, and a mistake there shows only at run time.
ARG PYTHON=python:3.13-slim-trixie
ARG RUNTIME=gcr.io/distroless/base-nossl-debian13:nonroot

FROM ${PYTHON} AS build
WORKDIR /srv

# PyInstaller reads and strips libraries with binutils.
RUN apt-get update && apt-get install --yes --no-install-recommends binutils

# Dependencies come before the code: they change less often, and a change rebuilds only the steps after it.
RUN --mount=type=bind,source=requirements,target=/tmp/lock --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --no-compile --require-hashes -r /tmp/lock/app.txt -r /tmp/lock/freeze.txt

# PyInstaller's program needs zlib, which the runtime image lacks: let it use the library in the bundle.
RUN patchelf --set-rpath '$ORIGIN/_internal' /usr/local/lib/python3.*/site-packages/PyInstaller/bootloader/*/run

COPY LICENSE NOTICE ./
COPY requirements/app.txt requirements/
COPY docker/geoip.spec docker/freeze.py docker/
COPY app app

# Fix the order of sets, so that two builds give the same bytes. Leave columns out of tracebacks, which saves 1.2 MB.
RUN PYTHONHASHSEED=0 PYTHONNODEBUGRANGES=1 PYINSTALLER_ZLIB_COMPRESSION_LEVEL=9 \
    pyinstaller --log-level ERROR --distpath /image docker/geoip.spec

FROM ${RUNTIME}
WORKDIR /app
COPY --from=build /image /
USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 8080
# The app checks itself, since not every image has a shell or curl.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --start-interval=1s \
    CMD ["/app/geoip", "healthcheck"]
ENTRYPOINT ["/app/geoip"]
