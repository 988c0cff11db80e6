CREATE TABLE person (id BIGINT NOT NULL, name TEXT, email_address TEXT, credit_card TEXT, city TEXT, state
  TEXT, date_time TIMESTAMP(3), extra TEXT) WITH (event_type='person');
CREATE TABLE auction (id BIGINT NOT NULL, item_name TEXT, description TEXT, initial_bid BIGINT, reserve
  BIGINT, date_time TIMESTAMP(3), expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra TEXT) WITH
  (event_type='auction');
CREATE TABLE bid (auction BIGINT NOT NULL, bidder BIGINT NOT NULL, price BIGINT NOT NULL, channel TEXT, url
  TEXT, date_time TIMESTAMP(3) NOT NULL, extra TEXT) WITH (event_type='bid');
