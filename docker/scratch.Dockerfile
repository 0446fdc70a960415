# From scratch, frozen: no base at all. The bundle needs only libc, and musl's is one file. The price is that of
# freezing and of musl, and that only your next build updates the libraries.
ARG PYTHON=python:3.13-alpine

FROM ${PYTHON} AS build
WORKDIR /srv

# PyInstaller reads and strips libraries with binutils.
RUN apk add --no-cache binutils

# The dependencies before the code: they change less often, and a change rebuilds only what comes after it.
RUN --mount=type=bind,source=requirements,target=/tmp/lock --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --no-compile --require-hashes -r /tmp/lock/app.txt -r /tmp/lock/freeze.txt

# PyInstaller's program needs zlib, which the runtime image lacks: let it look among the libraries of the bundle.
RUN patchelf --set-rpath '$ORIGIN/_internal' /usr/local/lib/python3.*/site-packages/PyInstaller/bootloader/*/run

# The rest of a system: libc, the certificates to trust, a name for the user, and the distribution's name for scanners.
RUN mkdir -p /image/lib /image/etc/ssl/certs && \
    cp /lib/ld-musl-*.so.1 /image/lib/ && \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ && \
    cp /etc/os-release /image/etc/ && \
    echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' >/image/etc/passwd

COPY LICENSE NOTICE ./
COPY requirements/app.txt requirements/
COPY docker/geoip.spec docker/freeze.py docker/
COPY app app

# Sets in a fixed order, so that two builds give the same bytes. No columns in tracebacks: it saves 1.2 MB.
RUN PYTHONHASHSEED=0 PYTHONNODEBUGRANGES=1 PYINSTALLER_ZLIB_COMPRESSION_LEVEL=9 \
    pyinstaller --log-level ERROR --distpath /image docker/geoip.spec

FROM scratch
WORKDIR /app
COPY --from=build /image /
USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 8080
# The app asks itself: not every image has a shell or curl.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --start-interval=1s \
    CMD ["/app/geoip", "healthcheck"]
ENTRYPOINT ["/app/geoip"]
