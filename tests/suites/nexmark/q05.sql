CREATE MATERIALIZED VIEW q5 AS SELECT ab.auction, ab.num FROM (SELECT auction, count(*) AS num, window_start
  AS s, window_end AS e FROM hop(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds') GROUP BY
  auction, window_start, window_end) ab JOIN (SELECT max(num) AS maxn, s, e FROM (SELECT count(*) AS num,
  window_start AS s, window_end AS e FROM hop(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
  GROUP BY auction, window_start, window_end) c GROUP BY s, e) mb ON ab.s = mb.s AND ab.e = mb.e AND ab.num >=
  mb.maxn;
