CREATE MATERIALIZED VIEW q13 AS SELECT b.auction, b.bidder, b.price, b.date_time, s.value FROM bid b JOIN
  (VALUES (0, 'zero'), (1, 'one'), (2, 'two'), (3, 'three'), (7, 'seven')) AS s (key, value) ON b.auction % 10
  = s.key;
