CREATE MATERIALIZED VIEW seed AS
SELECT k FROM t WHERE k = 0 OR k = 1 OR k = 2 OR k = 3 OR k = 4 OR k = 5 OR k = 6 OR k = 7 OR k = 8 OR k = 9 OR k = 10 OR k = 11 OR k = 12 OR k = 13 OR k = 14 OR k = 15 OR k = 16 OR k = 17 OR k = 18 OR k = 19;
