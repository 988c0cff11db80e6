CREATE MATERIALIZED VIEW q17 AS SELECT auction, to_char(date_time, 'YYYY-MM-DD') AS day, count(*) AS n, count(*)
  FILTER (WHERE price < 10000) AS r1, min(price) AS lo, max(price) AS hi, avg(price) AS a, sum(price) AS s
  FROM bid GROUP BY 1, 2;
