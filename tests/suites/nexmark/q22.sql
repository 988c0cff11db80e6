CREATE MATERIALIZED VIEW q22 AS SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS d1,
  split_part(url, '/', 5) AS d2, split_part(url, '/', 6) AS d3 FROM bid;
