# Heliostat with a ClickHouse server elsewhere: see docker-compose.yml.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/heliostat

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --create-home --home-dir /var/lib/heliostat heliostat
COPY --from=build /src/target/release/heliostat /usr/local/bin/heliostat
COPY queries /etc/heliostat/queries
USER heliostat
ENV HELIOSTAT_DATA_DIR=/var/lib/heliostat \
    HELIOSTAT_QUERIES=/etc/heliostat/queries \
    HELIOSTAT_LISTEN=0.0.0.0:8080 \
    HELIOSTAT_INSECURE=true
VOLUME /var/lib/heliostat
EXPOSE 8080
HEALTHCHECK --interval=5s CMD curl -fs http://127.0.0.1:8080/healthz || exit 1
ENTRYPOINT ["heliostat"]
CMD ["serve"]
