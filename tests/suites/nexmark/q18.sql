CREATE MATERIALIZED VIEW q18 AS SELECT auction, bidder, price, channel, url, date_time, extra FROM (SELECT *,
  row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC, price DESC, url, extra) AS r FROM
  bid) x WHERE r <= 1;
