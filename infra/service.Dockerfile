# One recipe for the four services: `docker build -f infra/service.Dockerfile --build-arg SERVICE=auth .`
# The packages come first and do not depend on SERVICE, so the four images share that layer.

FROM python:3.13-slim AS packages
WORKDIR /build
RUN python -m venv /opt/perennial
COPY infra/runtime_requirements.py requirements.lock ./
# What an operator adds: MORE_PACKAGES=saxonche has every e-invoice checked by the rules of EN 16931.
ARG MORE_PACKAGES=
RUN --mount=type=cache,target=/root/.cache/pip \
    python runtime_requirements.py requirements.lock > runtime.lock \
    && /opt/perennial/bin/pip install --disable-pip-version-check --no-input \
        --only-binary :all: --require-hashes -r runtime.lock \
    && { test -z "${MORE_PACKAGES}" || /opt/perennial/bin/pip install \
        --disable-pip-version-check --no-input --only-binary :all: ${MORE_PACKAGES}; } \
    && /opt/perennial/bin/pip uninstall --yes pip

FROM python:3.13-slim
RUN groupadd --gid 10001 perennial \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/perennial perennial \
    && install --directory --owner=perennial --group=perennial \
        /var/lib/perennial /var/lib/perennial/mailbox /var/lib/perennial/documents \
        /var/lib/perennial/sandbox /var/lib/perennial/broker
COPY --from=packages /opt/perennial /opt/perennial
COPY infra/healthcheck.sh /usr/local/bin/healthcheck
ARG SERVICE
WORKDIR /app
# This service and what it shares with the others; nothing of the others (a test holds us to it).
COPY shared/ shared/
COPY services/${SERVICE}/ services/${SERVICE}/
RUN test -n "${SERVICE}" && /opt/perennial/bin/python -m compileall -q /app
ENV PATH=/opt/perennial/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PERENNIAL_SERVICE=${SERVICE} \
    PERENNIAL_HOST=0.0.0.0 \
    PERENNIAL_PORT=8000 \
    PERENNIAL_INTERNAL_PORT=9000
USER perennial
EXPOSE 8000
STOPSIGNAL SIGTERM
# `exec`, so that the process itself is the one that gets the signal.
ENTRYPOINT ["/bin/sh", "-c", "exec python -m services.$PERENNIAL_SERVICE \"$@\"", "perennial"]
CMD ["api"]
