CREATE MATERIALIZED VIEW q6 AS SELECT seller, id, avg(final) OVER (PARTITION BY seller ORDER BY date_time, id
  ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS avg_final FROM (SELECT a.id, a.seller, a.date_time,
  max(b.price) AS final FROM auction a JOIN bid b ON a.id = b.auction WHERE b.date_time BETWEEN a.date_time
  AND a.expires GROUP BY a.id, a.seller, a.date_time) q;
