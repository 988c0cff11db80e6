CREATE MATERIALIZED VIEW seed AS
((((((((((SELECT k FROM t))))))))));
