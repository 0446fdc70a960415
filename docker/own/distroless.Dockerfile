# Distroless, frozen: PyInstaller packs the app with its interpreter, and leaves out what the app does not import. The
# price: an import that its analysis cannot see must be named, and a mistake there shows only at run time.
ARG PYTHON=python:3.13-slim-trixie
ARG RUNTIME=gcr.io/distroless/base-nossl-debian13:nonroot

FROM ${PYTHON} AS build
WORKDIR /srv

# Dependencies come before the code: they change less often, and a change rebuilds only the steps after it.
# To use a private index, lend its pip.conf to the build, which keeps no copy: docker build --secret id=pip.conf,src=…
RUN --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --no-deps --no-compile --require-hashes --only-binary :all: --target packages -r /tmp/requirements.txt

# PyInstaller reads and strips libraries with binutils.
RUN apt-get update && apt-get install --yes --no-install-recommends binutils
RUN --mount=type=bind,source=freezing/freeze.txt,target=/tmp/freeze.txt --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --no-deps --no-compile --require-hashes -r /tmp/freeze.txt

# PyInstaller's program needs zlib, which the runtime image lacks: let it use the library in the bundle.
RUN patchelf --set-rpath '$ORIGIN/_internal' /usr/local/lib/python3.*/site-packages/PyInstaller/bootloader/*/run

COPY . .

# Packages to take whole, separated by spaces: those that the app imports by a computed name.
ARG WHOLE=""
# Fix the order of sets, so that two builds give the same bytes.
RUN mkdir /data && chmod -R u=rwX,go=rX . && \
    PYTHONPATH=/srv:/srv/src:/srv/packages PYTHONHASHSEED=0 MODULE=your.module \
    pyinstaller --log-level ERROR --distpath /image freezing/app.spec

FROM ${RUNTIME}
WORKDIR /app
COPY --from=build /image /
# A volume that is mounted here gets this owner.
COPY --from=build --chown=65532:65532 /data /data
USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
ENTRYPOINT ["/app/app"]
