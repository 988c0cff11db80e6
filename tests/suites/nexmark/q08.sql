CREATE MATERIALIZED VIEW q8 AS SELECT p.id, p.name, p.s FROM (SELECT id, name, window_start AS s, window_end
  AS e FROM tumble(person, date_time, INTERVAL '10 seconds') GROUP BY id, name, window_start, window_end) p
  JOIN (SELECT seller, window_start AS s, window_end AS e FROM tumble(auction, date_time, INTERVAL
  '10 seconds') GROUP BY seller, window_start, window_end) a ON p.id = a.seller AND p.s = a.s AND p.e = a.e;
