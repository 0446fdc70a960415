# nginx and Valkey from Debian's packages, for machines that cannot pull the images that deploy/compose.yaml names.
FROM python:3.13-slim-trixie AS valkey
RUN apt-get update && apt-get install --yes --no-install-recommends valkey-server && rm -rf /var/lib/apt/lists/*

# Debian 13 has nginx 1.26, and deploy/nginx.conf needs 1.27.3: the next Debian's. A mirror of what is not released may
# be a few weeks behind, and its index then past its date.
FROM python:3.13-slim-trixie AS nginx
RUN find /etc/apt -name '*.sources' -o -name sources.list | xargs sed -i 's/trixie/forky/g' && \
    apt-get update -o Acquire::Check-Valid-Until=false && \
    apt-get install --yes --no-install-recommends nginx-light wget && rm -rf /var/lib/apt/lists/*
STOPSIGNAL SIGQUIT
