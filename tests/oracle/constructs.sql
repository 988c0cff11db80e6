-- Views over the tables of oracle.rs, each compared with the batch engine. Where that has to be asked in
-- other words (it does not know the construct, or breaks ties in another way), they stand behind the view.

-- view v_exists
SELECT p.id, p.name FROM people p WHERE EXISTS (SELECT 1 FROM bids b WHERE b.bidder = p.id AND b.price > 30)

-- view v_not_exists_2
SELECT p.id, p.name FROM people p WHERE NOT EXISTS (SELECT 1 FROM bids b WHERE b.bidder = p.id AND b.price > 30)

-- view v_in_2
SELECT id, title FROM auctions WHERE id IN (SELECT auction FROM bids WHERE price > 40)

-- view v_not_in_2
SELECT a.id FROM auctions a WHERE a.id NOT IN (SELECT auction FROM bids)

-- view v_not_in_null
SELECT a.id FROM auctions a WHERE a.seller NOT IN (SELECT id FROM people WHERE name = 'Ann')

-- view v_not_in_null2
SELECT b.auction, b.price FROM bids b WHERE b.price NOT IN (SELECT category FROM auctions)

-- view v_scalar
SELECT id, (SELECT max(price) FROM bids b WHERE b.auction = a.id) AS top FROM auctions a

-- view v_scalar_count
SELECT id, (SELECT count(*) FROM bids b WHERE b.auction = a.id AND b.price > 50) AS n FROM auctions a

-- view v_scalar_count_expr
SELECT id, (SELECT count(*) + 1 FROM bids b WHERE b.auction = a.id AND b.price > 50) AS n FROM auctions a

-- view v_uncorrelated
SELECT auction, price FROM bids WHERE price > (SELECT avg(price) FROM bids)

-- view v_having_2
SELECT auction, sum(price) AS s FROM bids GROUP BY auction HAVING sum(price) > (SELECT 0.1 * sum(price) FROM bids)

-- view v_neq
SELECT DISTINCT b.auction, b.price, (SELECT count(*) FROM bids c WHERE c.auction = b.auction AND c.price > b.price) AS rank FROM bids b
-- oracle
SELECT DISTINCT b.auction, b.price, coalesce(r, 0) AS rank FROM bids b LEFT JOIN (SELECT b.auction a, b.price p, sum(CASE WHEN c.price > b.price THEN 1 ELSE 0 END) r FROM (SELECT DISTINCT auction, price FROM bids) b JOIN bids c ON b.auction = c.auction GROUP BY b.auction, b.price) x ON b.auction = x.a AND b.price IS NOT DISTINCT FROM x.p

-- view v_limit1
SELECT a.id, (SELECT b.bidder FROM bids b WHERE b.auction = a.id ORDER BY b.price DESC NULLS LAST, b.bidder LIMIT 1) AS w FROM auctions a
-- oracle
SELECT a.id, w FROM auctions a LEFT JOIN (SELECT auction, bidder AS w FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC NULLS LAST, bidder) rn FROM bids) WHERE rn = 1) x ON x.auction = a.id

-- view v_lateral
SELECT a.id, x.bidder, x.price FROM auctions a, LATERAL (SELECT b.bidder, b.price FROM bids b WHERE b.auction = a.id ORDER BY b.price DESC NULLS LAST, b.bidder LIMIT 2) x
-- oracle
SELECT a.id, bidder, price FROM auctions a JOIN (SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC NULLS LAST, bidder) rn FROM bids) WHERE rn <= 2) x ON x.auction = a.id

-- view v_or
SELECT id FROM people p WHERE city = 'Rome' OR EXISTS (SELECT 1 FROM bids b WHERE b.bidder = p.id AND b.price > 80)

-- view v_or_in
SELECT id, category FROM auctions a WHERE category = 3 OR seller IN (SELECT id FROM people WHERE city = 'Oslo')

-- view v_in_select
SELECT id, seller IN (SELECT id FROM people WHERE city = 'Oslo') AS f FROM auctions a
-- oracle
SELECT a.id, CASE WHEN p.id IS NOT NULL THEN true WHEN n = 0 THEN false WHEN a.seller IS NULL OR n > nn THEN NULL ELSE false END AS f FROM auctions a LEFT JOIN (SELECT DISTINCT id FROM people WHERE city = 'Oslo') p ON a.seller = p.id CROSS JOIN (SELECT count(*) n, count(id) nn FROM people WHERE city = 'Oslo')

-- view v_any
SELECT id FROM auctions a WHERE category < ANY (SELECT price FROM bids b WHERE b.auction = a.id)
-- oracle
SELECT id FROM auctions a JOIN (SELECT auction, max(price) m FROM bids GROUP BY auction) b ON a.id = b.auction AND a.category < m

-- view v_all
SELECT id FROM auctions a WHERE category <= ALL (SELECT price FROM bids b WHERE b.auction = a.id AND price IS NOT NULL)
-- oracle
SELECT id FROM auctions a LEFT JOIN (SELECT auction, min(price) m FROM bids GROUP BY auction) b ON a.id = b.auction WHERE m IS NULL OR category <= m

-- view v_nested
SELECT p.id FROM people p WHERE EXISTS (SELECT 1 FROM auctions a WHERE a.seller = p.id AND a.category < (SELECT max(price) FROM bids b WHERE b.auction = a.id AND b.bidder <> p.id))
-- oracle
SELECT DISTINCT p.id FROM people p JOIN auctions a ON a.seller = p.id JOIN bids b ON b.auction = a.id AND b.bidder <> p.id AND b.price > a.category

-- view v_three_2
SELECT p.city, a.category, sum(b.price) AS s FROM bids b, auctions a, people p WHERE b.auction = a.id AND a.seller = p.id GROUP BY p.city, a.category

-- view v_exists_agg
SELECT a.id FROM auctions a WHERE EXISTS (SELECT sum(price) FROM bids b WHERE b.auction = a.id HAVING sum(price) > 100)
-- oracle
SELECT a.id FROM auctions a WHERE id IN (SELECT auction FROM bids GROUP BY auction HAVING sum(price) > 100)

-- view v_unnest_exists
SELECT auction, price FROM bids b WHERE EXISTS (SELECT 1 FROM UNNEST(b.tags) AS t(x) WHERE t.x = 'z')
-- oracle
SELECT auction, price FROM bids WHERE array_has(tags, 'z')

-- view v_join_lat
SELECT a.id, q.m FROM auctions a JOIN LATERAL (SELECT max(b.price) AS m FROM bids b JOIN people p ON b.bidder = p.id WHERE b.auction = a.id AND p.id <> a.seller) q ON q.m > 20
-- oracle
SELECT a.id, m FROM auctions a JOIN (SELECT au.id i, au.seller s, max(b.price) m FROM (SELECT DISTINCT id, seller FROM auctions) au JOIN bids b ON b.auction = au.id JOIN people p ON b.bidder = p.id AND p.id <> au.seller GROUP BY au.id, au.seller) x ON a.id = x.i AND a.seller IS NOT DISTINCT FROM x.s WHERE m > 20

-- view v_top_hidden
SELECT bidder FROM bids ORDER BY price DESC NULLS LAST, auction, bidder LIMIT 3

-- view w_rn
SELECT auction, bidder, price, row_number() OVER (PARTITION BY auction ORDER BY price, bidder, channel, rate, amount, at, urgent) AS rn FROM bids

-- view w_top
SELECT * FROM (SELECT auction, bidder, price, row_number() OVER (PARTITION BY auction ORDER BY price DESC NULLS LAST, bidder) AS rn FROM bids) x WHERE rn <= 2

-- view w_top_nn
SELECT auction, bidder, price FROM (SELECT auction, bidder, price, row_number() OVER (PARTITION BY auction ORDER BY price DESC NULLS LAST, bidder) AS rn FROM bids) x WHERE rn = 1 AND price > 10

-- view w_rank
SELECT auction, price, rank() OVER w AS r, dense_rank() OVER w AS d, percent_rank() OVER w AS p, cume_dist() OVER w AS c, ntile(3) OVER (PARTITION BY auction ORDER BY price, bidder, channel, rate, amount, at, urgent) AS nt FROM bids WINDOW w AS (PARTITION BY auction ORDER BY price)

-- view w_lag
SELECT auction, bidder, price, lag(price) OVER w AS l1, lead(price, 2, -1) OVER w AS l2, first_value(price) OVER w AS f, nth_value(price, 2) OVER w AS n2 FROM bids WINDOW w AS (PARTITION BY auction ORDER BY bidder, price, channel, rate, amount, at, urgent)

-- view w_sum
SELECT auction, bidder, price, sum(price) OVER (PARTITION BY auction ORDER BY bidder) AS s, count(*) OVER (PARTITION BY auction) AS n, avg(price) OVER (PARTITION BY auction ORDER BY bidder, price ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS a FROM (SELECT DISTINCT auction, bidder, price FROM bids) q

-- view w_range
SELECT auction, bidder, sum(price) OVER (ORDER BY auction RANGE BETWEEN 1 PRECEDING AND CURRENT ROW) AS s, min(price) OVER (ORDER BY auction GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING) AS g FROM bids

-- view w_last
SELECT bidder, price, last_value(price) OVER (PARTITION BY bidder ORDER BY price ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS l, max(price) FILTER (WHERE urgent) OVER (PARTITION BY bidder) AS m FROM bids

-- view g_array
SELECT auction, array_agg(price ORDER BY price, bidder) AS ps, string_agg(channel, ',' ORDER BY channel, price) AS cs FROM bids GROUP BY auction

-- view g_median
SELECT auction, median(price) AS m, percentile_cont(0.25) WITHIN GROUP (ORDER BY price) AS p, approx_distinct(bidder) AS d, bit_and(price) AS ba, bit_or(price) AS bo, bit_xor(price) AS bx FROM bids GROUP BY auction

-- view g_corr
SELECT auction, corr(price, bidder) AS c, covar_samp(price, bidder) AS cs, covar_pop(price, bidder) AS cp, regr_slope(price, bidder) AS rs FROM bids GROUP BY auction

-- view g_first
SELECT auction, first_value(bidder ORDER BY price DESC NULLS LAST, bidder) AS f, last_value(bidder ORDER BY price NULLS FIRST, bidder DESC) AS l, count(*) AS n FROM bids GROUP BY auction

-- view g_global
SELECT array_agg(id ORDER BY id) AS a, median(category) AS m, first_value(title ORDER BY id, title) AS f, count(*) AS n FROM auctions WHERE id < 4

-- view g_global_empty
SELECT array_agg(id ORDER BY id) AS a, median(category) AS m, first_value(title ORDER BY id, title) AS f, count(*) AS n FROM auctions WHERE id < -4

-- view g_filter
SELECT bidder, array_agg(price ORDER BY price) FILTER (WHERE urgent) AS a, median(price) FILTER (WHERE price > 50) AS m FROM bids GROUP BY bidder

-- view g_distinct
SELECT bidder, array_agg(DISTINCT price ORDER BY price) AS a, string_agg(DISTINCT channel, '|' ORDER BY channel) AS c, sum(DISTINCT price) AS s FROM bids GROUP BY bidder

-- view g_people
SELECT city, array_agg(name ORDER BY name, id) AS a, min(name) AS m, median(id) AS md FROM people GROUP BY city

-- view s_rollup
SELECT auction, channel, count(*) AS n, sum(price) AS s, grouping(auction) AS ga, grouping(auction, channel) AS gb FROM bids GROUP BY ROLLUP (auction, channel)

-- view s_cube
SELECT channel, urgent, count(*) AS n, min(price) AS m, median(price) AS md FROM bids GROUP BY CUBE (channel, urgent)

-- view s_sets
SELECT channel, bidder, count(*) AS n FROM bids GROUP BY GROUPING SETS ((channel), (bidder), ())

-- view s_mixed
SELECT auction, channel, urgent, count(*) AS n FROM bids GROUP BY auction, ROLLUP (channel, urgent)

-- view s_empty
SELECT channel, count(*) AS n FROM bids WHERE price > 100000 GROUP BY ROLLUP (channel)

-- view i_all
SELECT id FROM auctions INTERSECT ALL SELECT auction FROM bids
-- oracle
SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY id) rn FROM auctions INTERSECT SELECT auction, row_number() OVER (PARTITION BY auction) FROM bids)

-- view e_all
SELECT auction FROM bids EXCEPT ALL SELECT id FROM auctions
-- oracle
SELECT auction FROM (SELECT auction, row_number() OVER (PARTITION BY auction) rn FROM bids EXCEPT SELECT id, row_number() OVER (PARTITION BY id) FROM auctions)

-- view asof
SELECT a.id, a.category, b.price FROM auctions a ASOF JOIN bids b MATCH_CONDITION (a.category * 20 >= b.price) ON a.id = b.auction
-- oracle
SELECT a.id, a.category, max(b.price) AS price FROM (SELECT *, row_number() OVER () rn FROM auctions) a JOIN bids b ON a.id = b.auction AND a.category * 20 >= b.price GROUP BY a.id, a.category, a.rn

-- view asofl
SELECT a.id, a.category, b.price FROM auctions a ASOF LEFT JOIN bids b MATCH_CONDITION (a.category * 20 < b.price) ON a.id = b.auction
-- oracle
SELECT a.id, a.category, min(b.price) AS price FROM (SELECT *, row_number() OVER () rn FROM auctions) a LEFT JOIN bids b ON a.id = b.auction AND a.category * 20 < b.price GROUP BY a.id, a.category, a.rn

-- view j_star
SELECT p.city, a.category, sum(b.price) AS s FROM people p, bids b, auctions a WHERE b.auction = a.id AND a.seller = p.id AND a.category = 3 GROUP BY p.city, a.category

-- view j_or
SELECT count(*) AS n FROM bids b, auctions a WHERE (b.auction = a.id AND b.price > 50) OR (b.auction = a.id AND a.category < 2)

-- view t_tumble
SELECT window_start, window_end, count(*) AS n, sum(price) AS s FROM tumble(bids, at, INTERVAL '1 minute') GROUP BY window_start, window_end
-- oracle
SELECT date_bin(interval '1 minute', at) AS window_start, date_bin(interval '1 minute', at) + interval '1 minute' AS window_end, count(*) AS n, sum(price) AS s FROM bids WHERE at IS NOT NULL GROUP BY 1, 2

-- view t_tumble_off
SELECT b.window_start AS s, count(*) AS n FROM tumble(bids, at, INTERVAL '2 minutes', INTERVAL '1 minute') AS b GROUP BY b.window_start
-- oracle
SELECT date_bin(interval '2 minutes', at, timestamp '1970-01-01T00:01:00') AS s, count(*) AS n FROM bids WHERE at IS NOT NULL GROUP BY 1

-- view t_hop
SELECT window_start, auction, count(*) AS n FROM hop(bids, at, INTERVAL '30 seconds', INTERVAL '1 minute') GROUP BY window_start, auction
-- oracle
SELECT w AS window_start, auction, count(*) AS n FROM (SELECT date_bin(interval '30 seconds', at) AS w, auction FROM bids UNION ALL SELECT date_bin(interval '30 seconds', at) - interval '30 seconds', auction FROM bids) GROUP BY 1, 2

-- view t_session
SELECT auction, window_start, window_end, count(*) AS n FROM session(bids, at, INTERVAL '20 seconds', auction) GROUP BY auction, window_start, window_end
-- oracle
SELECT auction, min(at) AS window_start, max(at) + interval '20 seconds' AS window_end, count(*) AS n FROM (SELECT *, sum(f) OVER (PARTITION BY auction ORDER BY at) AS g FROM (SELECT *, CASE WHEN at < lag(at) OVER (PARTITION BY auction ORDER BY at) + interval '20 seconds' THEN 0 ELSE 1 END AS f FROM bids)) GROUP BY auction, g

-- view u_const
SELECT x, count(b.auction) AS c FROM UNNEST(ARRAY[1, 2, 50]) AS u(x) LEFT JOIN bids b ON b.auction = u.x GROUP BY x

-- view q_qual
SELECT auction, bidder, price FROM bids QUALIFY row_number() OVER (PARTITION BY auction ORDER BY price DESC NULLS LAST, bidder) = 1
-- oracle
SELECT auction, bidder, price FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC NULLS LAST, bidder) rn FROM bids) WHERE rn = 1

-- view g_dist2
SELECT bidder, string_agg(DISTINCT channel, '|' ORDER BY channel) AS c FROM bids GROUP BY bidder

-- view r_count
WITH RECURSIVE r(x) AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r WHERE x < 5) SELECT x FROM r

-- view r_reach
WITH RECURSIVE reach AS (SELECT seller AS src, id AS dst FROM auctions WHERE category < 3 UNION SELECT r.src, a.id FROM reach r JOIN auctions a ON a.seller = r.dst WHERE a.category < 3) SELECT src, dst FROM reach

-- view r_tree
WITH RECURSIVE t AS (SELECT id, 0 AS depth FROM people WHERE id = 0 UNION SELECT a.id, t.depth + 1 FROM t JOIN auctions a ON a.seller = t.id WHERE t.depth < 4 AND a.id IN (SELECT id FROM people WHERE city = 'Rome')) SELECT id, min(depth) AS d FROM t GROUP BY id

-- view r_short
WITH RECURSIVE p AS (SELECT bidder AS n, 0 AS cost FROM bids WHERE bidder = 1 UNION SELECT a.id, p.cost + a.category FROM p JOIN auctions a ON a.seller = p.n WHERE p.cost + a.category < 12) SELECT n, min(cost) AS c FROM p GROUP BY n

-- view r_left
WITH RECURSIVE t AS (SELECT id FROM people WHERE id = 1 UNION SELECT a.id FROM t JOIN auctions a ON a.seller = t.id LEFT JOIN people p ON p.id = a.id WHERE p.city IS NULL OR p.city <> 'Oslo') SELECT count(*) AS n FROM t

-- view un_sel
SELECT auction, unnest(tags) AS tag FROM bids

-- view un_sel2
SELECT tag, count(*) AS n FROM (SELECT unnest(tags) AS tag FROM bids) x GROUP BY tag

-- view nx_q6
SELECT seller, avg(price) OVER (PARTITION BY seller ORDER BY at, id, bidder ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS a FROM (SELECT a.id, a.seller, b.price, b.at, b.bidder, row_number() OVER (PARTITION BY a.id, a.seller ORDER BY b.price DESC NULLS LAST, b.bidder, b.at) AS rn FROM auctions a JOIN bids b ON a.id = b.auction) q WHERE rn = 1

-- view nx_q19
SELECT * FROM (SELECT auction, bidder, price, at, row_number() OVER (PARTITION BY auction ORDER BY price DESC NULLS LAST, bidder, at) AS rank_number FROM bids) q WHERE rank_number <= 10

-- view nx_q16
SELECT channel, to_char(at, '%Y-%m-%d') AS day, max(to_char(at, '%H:%M')) AS minute, count(*) AS total, count(*) FILTER (WHERE price < 50) AS r1, count(DISTINCT bidder) AS tb, count(DISTINCT bidder) FILTER (WHERE price < 50) AS r1b, count(DISTINCT auction) FILTER (WHERE price >= 50) AS r2a FROM bids GROUP BY channel, to_char(at, '%Y-%m-%d')
