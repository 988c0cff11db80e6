CREATE MATERIALIZED VIEW q16 AS SELECT channel, to_char(date_time, 'YYYY-MM-DD') AS day, max(to_char(date_time,
  'HH24:MI')) AS minute, count(*) AS t, count(*) FILTER (WHERE price < 10000) AS r1, count(DISTINCT bidder) AS
  tb, count(DISTINCT bidder) FILTER (WHERE price < 10000) AS b1, count(DISTINCT auction) AS ta FROM bid GROUP
  BY 1, 2;
