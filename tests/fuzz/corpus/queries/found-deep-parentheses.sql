CREATE MATERIALIZED VIEW seed AS
SELECT ((((((((((((((((((((k)))))))))))))))))))) AS x FROM t;
