# Debian buster in one stage: the shortest way to an image, and where everyone started. The price: compilers and package
# managers stay in the image, and buster has had no security fixes since June 2024.
ARG PYTHON=python:3.11-buster

FROM ${PYTHON}
WORKDIR /srv

# Dependencies come before the code: they change less often, and a change rebuilds only the steps after it.
RUN --mount=type=bind,source=requirements/app.txt,target=/tmp/app.txt --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --no-compile --require-hashes --target packages -r /tmp/app.txt

COPY LICENSE NOTICE ./
COPY app app

# Compile now, since a read-only container cannot keep bytecode. Python would compare it with the dates of files, which
# a release build rewrites: unchecked-hash prevents that.
RUN chmod -R u=rwX,go=rX app && python -m compileall -q --invalidation-mode unchecked-hash .
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
