CREATE MATERIALIZED VIEW q19 AS SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY
  price DESC, bidder, date_time, url, extra) AS r FROM bid) x WHERE r <= 10;
