-- The database of both services. The user that they connect as owns it and is a member of `shop_app`;
-- reports and orders run as `shop_app`, for which the policies hold.

CREATE ROLE shop_app NOLOGIN;
GRANT shop_app TO current_user;

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant bigint NOT NULL,
    name text NOT NULL
);

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant bigint NOT NULL,
    region text NOT NULL,
    day date NOT NULL DEFAULT current_date,
    cents bigint NOT NULL CHECK (cents > 0)
);

GRANT SELECT, INSERT ON customers, orders TO shop_app;

ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_the_tenant ON customers
    USING (tenant = nullif(current_setting('app.tenant', true), '')::bigint);
CREATE POLICY of_the_tenant ON orders
    USING (tenant = nullif(current_setting('app.tenant', true), '')::bigint);

-- Of all tenants together, so it names none of them.
CREATE MATERIALIZED VIEW ranking AS
    SELECT region, count(*) AS orders FROM orders GROUP BY region;
CREATE UNIQUE INDEX ranking_region ON ranking (region);
GRANT SELECT ON ranking TO shop_app;
