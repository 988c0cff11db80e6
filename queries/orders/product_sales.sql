-- What was ordered of each product, whether it is paid for yet or not.

CREATE MATERIALIZED VIEW product_sales AS
SELECT
  i.product_id,
  o.currency,
  max(i.name) AS product_name,
  count(DISTINCT o.order_id) AS orders,
  sum(i.quantity) AS units,
  CAST(sum(i.quantity * i.price) AS DECIMAL(18,2)) AS revenue
FROM order_placed o, UNNEST(o.items) AS i
GROUP BY i.product_id, o.currency;
