# Two stages: the first makes a virtual environment from the locked wheels, the second holds nothing but that and Python.
FROM python:3.13-slim AS build

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Dependencies first: this layer stays as it is until the lock changes. Wheels alone: nothing is compiled, and no
# package's set-up code runs.
COPY requirements/build.txt requirements/run.txt requirements/
RUN ["python", "-m", "pip", "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "requirements/build.txt"]
RUN ["python", "-m", "venv", "--without-pip", "/venv"]
RUN ["python", "-m", "pip", "--python=/venv", "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "requirements/run.txt"]

COPY pyproject.toml README.md LICENSE openapi.yaml ./
COPY service service
RUN ["python", "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir=dist", "."]
RUN ["python", "-m", "pip", "--python=/venv", "install", "--no-deps", "--no-index", "--find-links=dist", "guest-sessions"]


FROM python:3.13-slim

LABEL org.opencontainers.image.title="guest-sessions" \
      org.opencontainers.image.description="Guest sessions before login, as long-lived signed JWTs" \
      org.opencontainers.image.licenses="MIT"

# The user has no home and no shell; the numbers are fixed, so that volumes and Kubernetes can name them.
# pip goes: what is installed here is final.
RUN groupadd --gid 10001 guest \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin guest \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data/keys \
    && python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
    && rm -rf /usr/local/lib/python3.13/ensurepip

COPY --from=build /venv /venv

ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GUEST_HOST=0.0.0.0 \
    GUEST_PORT=8080 \
    GUEST_KEYS_DIR=/data/keys

USER 10001:10001
WORKDIR /data
VOLUME ["/data/keys"]
EXPOSE 8080
STOPSIGNAL SIGTERM
# No --start-interval: builders before Docker 25, and others still, refuse the whole file for it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["guest-sessions", "healthcheck"]
ENTRYPOINT ["guest-sessions"]
CMD ["serve"]
