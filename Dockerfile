# Two images, from the repository's root:
#   docker build --target runtime -t kwdbml/runtime:0.3.0 .   what jobs run in on Kubernetes
#   docker build --target worker -t kwdbml/worker:0.3.0 .     the worker
# Both have the same Python packages, because the worker finds out for the runtime what a bundle's requirements.txt
# still needs: build them together.
FROM python:3.11-slim-bookworm AS build
# tensorflow comes with EXTRAS=frameworks,kubeflow,tensorflow
ARG EXTRAS=frameworks,kubeflow
COPY . /usr/src/kwdbml
RUN python -m venv /opt/kwdbml && /opt/kwdbml/bin/pip install --no-cache-dir "/usr/src/kwdbml[$EXTRAS]"

FROM python:3.11-slim-bookworm AS base
# libgomp1: LightGBM and XGBoost are linked to it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/kwdbml kwdbml
COPY --from=build /opt/kwdbml /opt/kwdbml
ENV PATH=/opt/kwdbml/bin:$PATH
WORKDIR /var/lib/kwdbml

FROM base AS runtime
# As root, the pod's process starts user code as a user of its own, which cannot touch that process. A cluster that
# forbids root takes 10001 here. The run's Secret is hidden from user code either way: by the kernel's Landlock, not by
# the user number (kwdbml/steps/pod_hide.py).
ARG RUNTIME_USER=0
USER $RUNTIME_USER
# Kubeflow gives the command.

FROM base AS worker
# bubblewrap, util-linux: the local engine shuts uploaded code into a sandbox.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap util-linux \
    && rm -rf /var/lib/apt/lists/*
# By its number: Kubernetes believes no name to be another than root.
USER 10001
ENV KWDBML_SCRATCH=/var/lib/kwdbml/scratch
# The DSN comes as KWDBML_DSN, its password as a secret in PGPASSFILE or in the DSN.
ENTRYPOINT ["kwdbml"]
CMD ["worker"]
