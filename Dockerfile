ARG PYTHON_IMAGE=python:3.13-slim

# Builds the wheel: generates the models from the pinned schemas, with pinned tools.
FROM ${PYTHON_IMAGE} AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/tools \
    && /opt/tools/bin/pip install --require-hashes -r constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY registry registry
COPY packages packages
COPY scripts scripts
RUN /opt/tools/bin/python scripts/generate_schemas.py \
    && /opt/tools/bin/hatchling build --target wheel --directory /wheel

# Installs what the application needs to run, and nothing else.
FROM ${PYTHON_IMAGE} AS environment
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints-runtime.txt /
COPY --from=wheel /wheel /wheel
RUN python -m venv /opt/registry \
    && /opt/registry/bin/pip install --require-hashes -r /constraints-runtime.txt \
    && /opt/registry/bin/pip install --no-deps --no-index /wheel/*.whl \
    && /opt/registry/bin/pip uninstall --yes pip

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 registry \
    && useradd --uid 10001 --gid registry --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin registry
COPY --from=environment /opt/registry /opt/registry
ENV PATH=/opt/registry/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    REGISTRY_HOST=0.0.0.0 \
    REGISTRY_PORT=7860
WORKDIR /opt/registry
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 7860
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['REGISTRY_PORT'] + '/health/live', timeout=3)"]
ENTRYPOINT ["registry"]
CMD ["serve"]
