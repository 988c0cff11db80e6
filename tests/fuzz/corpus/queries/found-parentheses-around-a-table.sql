CREATE MATERIALIZED VIEW seed AS
SELECT * FROM ((((((((((t))))))))));
