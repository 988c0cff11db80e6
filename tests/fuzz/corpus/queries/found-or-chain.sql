CREATE MATERIALIZED VIEW seed AS
SELECT k, v FROM t WHERE
  (k > 0 AND v < 0)
  OR (k > 1 AND v < 1)
  OR (k > 2 AND v < 2)
  OR (k > 3 AND v < 3)
  OR (k > 4 AND v < 4)
  OR (k > 5 AND v < 5)
  OR (k > 6 AND v < 6)
  OR (k > 7 AND v < 7)
  OR (k > 8 AND v < 8)
  OR (k > 9 AND v < 9)
  OR (k > 10 AND v < 10)
  OR (k > 11 AND v < 11);
