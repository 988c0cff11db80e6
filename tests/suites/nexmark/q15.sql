CREATE MATERIALIZED VIEW q15 AS SELECT to_char(date_time, 'YYYY-MM-DD') AS day, count(*) AS t, count(*) FILTER
  (WHERE price < 10000) AS r1, count(DISTINCT bidder) AS tb, count(DISTINCT bidder) FILTER (WHERE price <
  10000) AS b1, count(DISTINCT auction) AS ta, count(DISTINCT auction) FILTER (WHERE price < 10000) AS a1 FROM
  bid GROUP BY 1;
