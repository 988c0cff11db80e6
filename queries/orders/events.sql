-- The events of a shop, as its web services send them.

CREATE TABLE customers (
  customer_id TEXT NOT NULL,
  name TEXT NOT NULL,
  email TEXT,
  country TEXT,
  PRIMARY KEY (customer_id)
) WITH (event_type = 'CustomerRegistered', fields = 'camelCase', mode = 'upsert');

CREATE TABLE order_placed (
  order_id TEXT NOT NULL,
  customer_id TEXT NOT NULL,
  currency TEXT NOT NULL,
  items ARRAY<STRUCT<product_id TEXT, name TEXT, quantity INT, price DECIMAL(12,2)>> NOT NULL,
  placed_at TIMESTAMP(3) NOT NULL
) WITH (event_type = 'OrderPlaced', fields = 'camelCase');

CREATE TABLE order_paid (
  order_id TEXT NOT NULL,
  payment_method TEXT NOT NULL,
  amount DECIMAL(12,2) NOT NULL,
  paid_at TIMESTAMP(3) NOT NULL
) WITH (event_type = 'OrderPaid', fields = 'camelCase');

CREATE TABLE order_shipped (
  order_id TEXT NOT NULL,
  carrier TEXT NOT NULL,
  tracking_number TEXT,
  shipped_at TIMESTAMP(3) NOT NULL
) WITH (event_type = 'OrderShipped', fields = 'camelCase');
