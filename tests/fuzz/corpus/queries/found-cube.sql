CREATE MATERIALIZED VIEW seed AS
SELECT count(*) AS n FROM t GROUP BY CUBE (k + 0, k + 1, k + 2, k + 3, k + 4, k + 5, k + 6, k + 7);
