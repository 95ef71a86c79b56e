# Minutebook's image: the pinned runtime and nothing else, as a user of its own.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --system --uid 10001 --user-group --create-home --home-dir /home/minutebook minutebook

WORKDIR /app

# The lock first: the layer with the libraries is built again only when the lock changes.
COPY requirements.lock ./
RUN pip install -r requirements.lock

COPY pyproject.toml LICENSE ./
COPY domain ./domain
COPY application ./application
COPY infrastructure ./infrastructure
COPY api ./api
COPY minutebook_client ./minutebook_client
RUN pip install --no-deps . && mkdir /data && chown minutebook:minutebook /data

USER minutebook

# Where the embedded PostgreSQL keeps its data when no MINUTEBOOK_DATABASE_URL is given.
ENV MINUTEBOOK_DATA=/data MINUTEBOOK_HOST=0.0.0.0 MINUTEBOOK_PORT=8000
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['MINUTEBOOK_PORT'] + '/health/live', timeout=2)"]

CMD ["minutebook", "serve"]
