# Debian 13 in two stages: a distribution that gets security fixes, today's default choice. The price: its shell, its
# package manager and pip are in the image, and a scanner reports the vulnerabilities of each.
ARG PYTHON=python:3.13-slim-trixie

FROM ${PYTHON} AS build
WORKDIR /srv

# Dependencies come before the code: they change less often, and a change rebuilds only the steps after it.
RUN --mount=type=bind,source=requirements/app.txt,target=/tmp/app.txt --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --no-compile --require-hashes --target packages -r /tmp/app.txt

COPY LICENSE NOTICE ./
COPY app app

# Compile now, since a read-only container cannot keep bytecode. Python would compare it with the dates of files, which
# a release build rewrites: unchecked-hash prevents that.
RUN chmod -R u=rwX,go=rX app && python -m compileall -q --invalidation-mode unchecked-hash .

FROM ${PYTHON}
WORKDIR /srv
COPY --from=build /srv .
ENV PYTHONPATH=/srv/packages
# Import the app as root, with what it imports late: the bytecode of the standard library then stays in the image.
RUN ["python", "-c", "import app.__main__, app.server, concurrent.futures.thread, encodings.idna"]

USER 65532:65532
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 8080
# The app checks itself, since not every image has a shell or curl.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --start-interval=1s \
    CMD ["python", "-m", "app", "healthcheck"]
ENTRYPOINT ["python", "-m", "app"]
