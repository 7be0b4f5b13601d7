# The worker's image. Build it from the repository's root: docker build -t kwdbml-worker .
FROM python:3.11-slim-bookworm AS build
COPY . /usr/src/kwdbml
RUN python -m venv /opt/kwdbml && /opt/kwdbml/bin/pip install --no-cache-dir '/usr/src/kwdbml[frameworks]'

FROM python:3.11-slim-bookworm
# bubblewrap: uploaded code runs in a sandbox; libgomp1: LightGBM and XGBoost are linked to it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap libgomp1 util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /var/lib/kwdbml kwdbml
COPY --from=build /opt/kwdbml /opt/kwdbml
USER kwdbml
WORKDIR /var/lib/kwdbml
ENV PATH=/opt/kwdbml/bin:$PATH KWDBML_SCRATCH=/var/lib/kwdbml/scratch
# The DSN comes as KWDBML_DSN, its password as a secret in PGPASSFILE or in the DSN.
ENTRYPOINT ["kwdbml"]
CMD ["worker"]
