-- One row per order: who ordered, for how much, and how far it is.

CREATE VIEW order_totals AS
SELECT
  o.order_id,
  CAST(sum(i.quantity * i.price) AS DECIMAL(18,2)) AS total_amount,
  sum(i.quantity) AS item_count
FROM order_placed o, UNNEST(o.items) AS i
GROUP BY o.order_id;

-- An order may be paid in parts and shipped in several parcels.
CREATE VIEW order_payments AS
SELECT order_id, max(paid_at) AS paid_at FROM order_paid GROUP BY order_id;

CREATE VIEW order_shipments AS
SELECT order_id, max(shipped_at) AS shipped_at FROM order_shipped GROUP BY order_id;

CREATE MATERIALIZED VIEW order_summaries WITH (key = 'order_id') AS
SELECT
  o.order_id,
  c.name AS customer_name,
  CAST(coalesce(t.total_amount, 0) AS DECIMAL(18,2)) AS total_amount,
  coalesce(t.item_count, 0) AS item_count,
  CASE
    WHEN s.shipped_at IS NOT NULL THEN 'shipped'
    WHEN p.paid_at IS NOT NULL THEN 'paid'
    ELSE 'placed'
  END AS status,
  greatest(o.placed_at, p.paid_at, s.shipped_at) AS last_updated
FROM order_placed o
LEFT JOIN order_totals t ON t.order_id = o.order_id
LEFT JOIN customers c ON c.customer_id = o.customer_id
LEFT JOIN order_payments p ON p.order_id = o.order_id
LEFT JOIN order_shipments s ON s.order_id = o.order_id;
