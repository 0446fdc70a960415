# Debian 13 in two stages: any app that has wheels, and a shell to look around with. The price: that shell, the package
# manager and pip are in the image, and a scanner reports each of their vulnerabilities.
ARG PYTHON=python:3.13-slim-trixie

FROM ${PYTHON} AS build
WORKDIR /srv

# The dependencies before the code: they change less often, and a change rebuilds only what comes after it.
RUN --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --no-compile --require-hashes --only-binary :all: --target packages -r /tmp/requirements.txt

COPY . .

# Bytecode, since a read-only container cannot keep what it compiles. A package may hold a file for another Python.
RUN chmod -R u=rwX,go=rX . && mkdir /data
RUN python -m compileall -q --invalidation-mode unchecked-hash . || true

FROM ${PYTHON}
# The same for the standard library, without its tests and tools.
RUN python -m compileall -q -x '/(test|idlelib|site-packages)/' /usr/local/lib/python3.*
WORKDIR /srv
COPY --from=build /srv .
# A volume that is mounted here gets this owner.
COPY --from=build --chown=65532:65532 /data /data
ENV PYTHONPATH=/srv/packages:/srv/src

USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
ENTRYPOINT ["python", "-m", "your.module"]
