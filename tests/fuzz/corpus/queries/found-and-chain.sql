CREATE MATERIALIZED VIEW seed AS
SELECT k FROM t WHERE k <> 0 AND k <> 1 AND k <> 2 AND k <> 3 AND k <> 4 AND k <> 5 AND k <> 6 AND k <> 7 AND k <> 8 AND k <> 9 AND k <> 10 AND k <> 11 AND k <> 12 AND k <> 13 AND k <> 14 AND k <> 15 AND k <> 16 AND k <> 17 AND k <> 18 AND k <> 19;
