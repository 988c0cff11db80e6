CREATE MATERIALIZED VIEW q7 AS SELECT b.auction, b.price, b.bidder, b.date_time FROM bid b JOIN (SELECT
  max(price) AS maxprice, window_end AS e FROM tumble(bid, date_time, INTERVAL '10 seconds') GROUP BY
  window_start, window_end) b1 ON b.price = b1.maxprice AND b.date_time BETWEEN b1.e - INTERVAL '10 seconds'
  AND b1.e;
