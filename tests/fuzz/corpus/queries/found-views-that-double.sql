CREATE VIEW v0 AS SELECT k, v FROM t;
CREATE VIEW v1 AS SELECT a.k, b.v FROM v0 a JOIN v0 b ON a.k = b.k;
CREATE VIEW v2 AS SELECT a.k, b.v FROM v1 a JOIN v1 b ON a.k = b.k;
CREATE VIEW v3 AS SELECT a.k, b.v FROM v2 a JOIN v2 b ON a.k = b.k;
CREATE VIEW v4 AS SELECT a.k, b.v FROM v3 a JOIN v3 b ON a.k = b.k;
CREATE MATERIALIZED VIEW seed AS
SELECT k, v FROM v4;
