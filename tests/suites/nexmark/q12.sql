CREATE MATERIALIZED VIEW q12 AS SELECT bidder, count(*) AS n, window_start, window_end FROM tumble(bid,
  date_time, INTERVAL '10 seconds') GROUP BY bidder, window_start, window_end;
