# Distroless with Python: Debian's interpreter and its libraries, no shell and no package manager. The price: the base
# decides on the version of Python, and the image has no tools to look around with.
ARG PYTHON=python:3.13-slim-trixie
ARG RUNTIME=gcr.io/distroless/python3-debian13:nonroot

FROM ${PYTHON} AS build
WORKDIR /srv

# Dependencies come before the code: they change less often, and a change rebuilds only the steps after it.
# To use a private index, lend its pip.conf to the build, which keeps no copy: docker build --secret id=pip.conf,src=…
RUN --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --no-deps --no-compile --require-hashes --only-binary :all: --target packages -r /tmp/requirements.txt

COPY . .

# Compile now, since a read-only container cannot keep bytecode. A file for another Python does not compile: go on.
RUN chmod -R u=rwX,go=rX . && mkdir /data
RUN python -m compileall -q --invalidation-mode unchecked-hash . || true

FROM ${RUNTIME}
USER 0
# Compile the standard library, without its tests and tools.
RUN ["python", "-m", "compileall", "-q", "-x", "/(test|idlelib)/", "/usr/lib/python3.13"]
WORKDIR /srv
COPY --from=build /srv .
# A volume that is mounted here gets this owner.
COPY --from=build --chown=65532:65532 /data /data
ENV PYTHONPATH=/srv/packages:/srv/src

USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
ENTRYPOINT ["python", "-m", "your.module"]
