-- Money that came in, minute by minute. A payment whose order is not known yet counts once it is.

CREATE MATERIALIZED VIEW revenue_by_minute AS
SELECT
  date_trunc('minute', p.paid_at) AS minute,
  o.currency,
  count(*) AS payments,
  CAST(sum(p.amount) AS DECIMAL(18,2)) AS revenue
FROM order_paid p
JOIN order_placed o ON o.order_id = p.order_id
GROUP BY date_trunc('minute', p.paid_at), o.currency;
