CREATE MATERIALIZED VIEW q11 AS SELECT bidder, count(*) AS bid_count, window_start, window_end FROM
  session(bid, date_time, INTERVAL '10 seconds', bidder) GROUP BY bidder, window_start, window_end;
