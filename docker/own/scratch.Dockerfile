# From scratch, frozen: no base at all. The bundle needs only libc, and musl's is one file. The price: that of
# freezing, that of musl, and only your next build updates the libraries.
ARG PYTHON=python:3.13-alpine

FROM ${PYTHON} AS build
WORKDIR /srv

# Dependencies come before the code: they change less often, and a change rebuilds only the steps after it.
# To use a private index, lend its pip.conf to the build, which keeps no copy: docker build --secret id=pip.conf,src=…
RUN --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --no-deps --no-compile --require-hashes --only-binary :all: --target packages -r /tmp/requirements.txt

# PyInstaller reads and strips libraries with binutils.
RUN apk add --no-cache binutils
RUN --mount=type=bind,source=freezing/freeze.txt,target=/tmp/freeze.txt --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --no-deps --no-compile --require-hashes -r /tmp/freeze.txt

# PyInstaller's program needs zlib, which the runtime image lacks: let it use the library in the bundle.
RUN patchelf --set-rpath '$ORIGIN/_internal' /usr/local/lib/python3.*/site-packages/PyInstaller/bootloader/*/run

# The files that a base would bring: libc, certificates to trust, the user's name, and the distribution for scanners.
RUN mkdir -p /image/lib /image/etc/ssl/certs && \
    cp /lib/ld-musl-*.so.1 /image/lib/ && \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ && \
    cp /etc/os-release /image/etc/ && \
    echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' >/image/etc/passwd

COPY . .

# Packages to take whole, separated by spaces: those that the app imports by a computed name.
ARG WHOLE=""
# Fix the order of sets, so that two builds give the same bytes.
RUN mkdir /data && chmod -R u=rwX,go=rX . && \
    PYTHONPATH=/srv:/srv/src:/srv/packages PYTHONHASHSEED=0 MODULE=your.module \
    pyinstaller --log-level ERROR --distpath /image freezing/app.spec

FROM scratch
WORKDIR /app
COPY --from=build /image /
# A volume that is mounted here gets this owner.
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
ENTRYPOINT ["/app/app"]
