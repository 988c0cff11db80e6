CREATE MATERIALIZED VIEW seed AS
SELECT k, v, grouping(k, v) AS g, sum(v) AS s FROM t GROUP BY GROUPING SETS ((k, v), (k), (v), ());
