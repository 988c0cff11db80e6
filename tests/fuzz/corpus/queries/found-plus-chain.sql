CREATE MATERIALIZED VIEW seed AS
SELECT k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k + k AS x FROM t;
