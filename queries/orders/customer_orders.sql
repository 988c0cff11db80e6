-- What each customer has ordered so far, per currency.

CREATE MATERIALIZED VIEW customer_orders AS
SELECT
  o.customer_id,
  o.currency,
  max(c.name) AS customer_name,
  count(*) AS orders,
  CAST(sum(t.total_amount) AS DECIMAL(18,2)) AS total_amount,
  min(o.placed_at) AS first_order_at,
  max(o.placed_at) AS last_order_at
FROM order_placed o
LEFT JOIN order_totals t ON t.order_id = o.order_id
LEFT JOIN customers c ON c.customer_id = o.customer_id
GROUP BY o.customer_id, o.currency;
