CREATE MATERIALIZED VIEW q9 AS SELECT id, item_name, description, seller, bidder, price FROM (SELECT a.*,
  b.bidder, b.price, row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b.bidder) AS
  rownum FROM auction a, bid b WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires) x
  WHERE rownum <= 1;
