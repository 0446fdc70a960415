# nginx and Valkey from Debian's packages, for machines that cannot pull the images that deploy/compose.yaml names.
FROM python:3.13-slim-trixie AS valkey
RUN apt-get update && apt-get install --yes --no-install-recommends valkey-server && rm -rf /var/lib/apt/lists/*

# deploy/nginx.conf needs nginx 1.27.3. Debian 13 has 1.26, so this takes the next Debian's. A mirror of an unreleased
# Debian may be weeks behind, so that its index has expired.
FROM python:3.13-slim-trixie AS nginx
RUN find /etc/apt -name '*.sources' -o -name sources.list | xargs sed -i 's/trixie/forky/g' && \
    apt-get update -o Acquire::Check-Valid-Until=false && \
    apt-get install --yes --no-install-recommends nginx-light wget && rm -rf /var/lib/apt/lists/*
STOPSIGNAL SIGQUIT
