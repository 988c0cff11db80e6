# syntax=docker/dockerfile:1
# The server and its command line. ClickHouse is not in it: compose brings the official image.

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin heliostat \
    && install -D target/release/heliostat /out/heliostat

FROM debian:bookworm-slim
# curl asks /healthz for the health check.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /data heliostat \
    && install -d -o heliostat /tokens
COPY --from=build /out/heliostat /usr/local/bin/heliostat
COPY queries /queries
USER heliostat
WORKDIR /data
VOLUME /data
ENV HELIOSTAT_DATA_DIR=/data HELIOSTAT_QUERIES=/queries
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=2s --start-period=60s \
    CMD curl -fs http://127.0.0.1:8080/healthz || exit 1
STOPSIGNAL SIGTERM
ENTRYPOINT ["heliostat"]
CMD ["serve"]
