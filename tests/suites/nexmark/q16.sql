CREATE MATERIALIZED VIEW q16 AS SELECT channel, to_char(date_time, '%Y-%m-%d') AS day, max(to_char(date_time,
  '%H:%M')) AS minute, count(*) AS t, count(*) FILTER (WHERE price < 10000) AS r1, count(DISTINCT bidder) AS
  tb, count(DISTINCT bidder) FILTER (WHERE price < 10000) AS b1, count(DISTINCT auction) AS ta FROM bid GROUP
  BY 1, 2;
