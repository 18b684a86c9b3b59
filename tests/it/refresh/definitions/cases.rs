//! Definitions that a view's rows depend on, each with a change.

/// A definition that is changed, and `the_view`, whose rows become others by that.
pub(super) struct Case {
    pub(super) what: &'static str,
    pub(super) setup: &'static str,
    pub(super) change: &'static str,
    /// The first `server_version_num` that has this.
    pub(super) since: i32,
}

/// The first version that has `skip_unchanged`.
pub(super) const COUNTED_SINCE: i32 = 150_000;

const fn case(what: &'static str, setup: &'static str, change: &'static str) -> Case {
    Case { what, setup, change, since: COUNTED_SINCE }
}

/// `$role` and `$group` are roles that own nothing but what `setup` gives them.
pub(super) const CASES: &[Case] = &[
    // Views below.
    case(
        "a plain view below",
        "CREATE VIEW low AS SELECT id FROM orders WHERE amount > 1;
         CREATE MATERIALIZED VIEW the_view AS SELECT * FROM low;",
        "CREATE OR REPLACE VIEW low AS SELECT id FROM orders WHERE amount > 3;",
    ),
    case(
        "a plain view two levels below",
        "CREATE VIEW lower AS SELECT id FROM orders WHERE amount > 1;
         CREATE VIEW low AS SELECT id FROM lower;
         CREATE MATERIALIZED VIEW the_view AS SELECT * FROM low;",
        "CREATE OR REPLACE VIEW lower AS SELECT id FROM orders WHERE amount > 3;",
    ),
    case(
        "tables that change places",
        "CREATE TABLE other (LIKE orders); INSERT INTO other VALUES (9, 'jp', 9);
         CREATE VIEW low AS SELECT id FROM orders;
         CREATE MATERIALIZED VIEW the_view AS SELECT * FROM low;",
        "ALTER TABLE orders RENAME TO old; ALTER TABLE other RENAME TO orders;
         CREATE OR REPLACE VIEW low AS SELECT id FROM orders;",
    ),
    // Functions.
    case(
        "a function",
        "CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f(amount) FROM orders;",
        "CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 2';",
    ),
    case(
        "a function that a function's text calls",
        "CREATE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 + 1; END';
         CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
           AS 'BEGIN RETURN public.g($1); END';
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f(amount) FROM orders;",
        "CREATE OR REPLACE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
           AS 'BEGIN RETURN $1 + 2; END';",
    ),
    case(
        "a function that a function of standard SQL calls",
        "CREATE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 + 1; END';
         CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql RETURN g($1);
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f(amount) FROM orders;",
        "CREATE OR REPLACE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
           AS 'BEGIN RETURN $1 + 2; END';",
    ),
    case(
        "an overload that fits better",
        "CREATE FUNCTION g(numeric) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT public.g($1)';
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f(amount) FROM orders;",
        "CREATE FUNCTION g(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2';",
    ),
    case(
        "a setting of a function",
        "CREATE SCHEMA a; CREATE SCHEMA b;
         CREATE FUNCTION a.g() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION b.g() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2';
         SET search_path = a, public;
         CREATE FUNCTION public.f() RETURNS int IMMUTABLE LANGUAGE sql SET search_path = a
           AS 'SELECT g()';
         RESET search_path;
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f() FROM orders;",
        "ALTER FUNCTION f() SET search_path = b;",
    ),
    case(
        "schemas that change places",
        "CREATE SCHEMA a; CREATE SCHEMA b;
         CREATE FUNCTION a.g() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION b.g() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2';
         CREATE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT a.g()';
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f() FROM orders;",
        "ALTER SCHEMA a RENAME TO c; ALTER SCHEMA b RENAME TO a;",
    ),
    case(
        "an aggregate",
        "CREATE FUNCTION step(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $2';
         CREATE AGGREGATE total(int) (sfunc = step, stype = int, initcond = '0');
         CREATE MATERIALIZED VIEW the_view AS SELECT total(amount) AS id FROM orders;",
        "CREATE OR REPLACE AGGREGATE total(int) (sfunc = step, stype = int, initcond = '100');",
    ),
    case(
        "a function of an aggregate",
        "CREATE FUNCTION step(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $2';
         CREATE AGGREGATE total(int) (sfunc = step, stype = int, initcond = '0');
         CREATE MATERIALIZED VIEW the_view AS SELECT total(amount) AS id FROM orders;",
        "CREATE OR REPLACE FUNCTION step(int, int) RETURNS int IMMUTABLE LANGUAGE sql
           AS 'SELECT $1 + $2 + 1';",
    ),
    case(
        "the owner of a function that runs with its rights",
        "CREATE TABLE secret (n int); INSERT INTO secret VALUES (1);
         ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
         GRANT SELECT ON secret TO $role; GRANT CREATE ON SCHEMA public TO $role;
         CREATE FUNCTION f() RETURNS bigint IMMUTABLE SECURITY DEFINER LANGUAGE sql
           AS 'SELECT count(*) FROM public.secret';
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f() FROM orders;",
        "ALTER FUNCTION f() OWNER TO $role;",
    ),
    // Operators, casts and types.
    case(
        "a function of an operator",
        "CREATE FUNCTION f(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $2';
         CREATE OPERATOR |+| (FUNCTION = f, LEFTARG = int, RIGHTARG = int);
         CREATE MATERIALIZED VIEW the_view AS SELECT id, amount |+| 1 FROM orders;",
        "CREATE OR REPLACE FUNCTION f(int, int) RETURNS int IMMUTABLE LANGUAGE sql
           AS 'SELECT $1 - $2';",
    ),
    case(
        "an operator that a function's text names",
        "CREATE OPERATOR |+| (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int);
         CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql
           AS 'SELECT $1 OPERATOR(public.|+|) 1';
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f(amount) FROM orders;",
        "DROP OPERATOR |+| (int, int);
         CREATE OPERATOR |+| (FUNCTION = int4mi, LEFTARG = int, RIGHTARG = int);",
    ),
    case(
        "a cast that a function's text uses",
        "CREATE TYPE tag AS (label text);
         CREATE FUNCTION one(int) RETURNS tag IMMUTABLE LANGUAGE sql
           AS $$SELECT ROW('one')::public.tag$$;
         CREATE FUNCTION two(int) RETURNS tag IMMUTABLE LANGUAGE sql
           AS $$SELECT ROW('two')::public.tag$$;
         CREATE CAST (int AS tag) WITH FUNCTION one(int);
         CREATE FUNCTION f(int) RETURNS text IMMUTABLE LANGUAGE sql
           AS 'SELECT ($1::public.tag).label';
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f(amount) FROM orders;",
        "DROP CAST (int AS tag); CREATE CAST (int AS tag) WITH FUNCTION two(int);",
    ),
    case(
        "a constraint of a domain",
        "CREATE DOMAIN small AS int CONSTRAINT bound CHECK (value < 3);
         CREATE FUNCTION f(int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS
           'BEGIN PERFORM $1::public.small; RETURN true; EXCEPTION WHEN check_violation THEN
              RETURN false; END';
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f(amount) FROM orders;",
        "ALTER DOMAIN small DROP CONSTRAINT bound;",
    ),
    case(
        "whether a domain takes nulls",
        "CREATE DOMAIN there AS int;
         CREATE FUNCTION f(int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS
           'BEGIN PERFORM nullif($1, 1)::public.there; RETURN true;
              EXCEPTION WHEN not_null_violation THEN RETURN false; END';
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f(amount) FROM orders;",
        "ALTER DOMAIN there SET NOT NULL;",
    ),
    case(
        "the labels of an enum",
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE moods (id int, mood mood);
         INSERT INTO moods VALUES (1, 'sad');
         CREATE MATERIALIZED VIEW the_view AS SELECT id, mood::text FROM moods;",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';",
    ),
    case(
        "the order of an enum",
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE FUNCTION f() RETURNS text IMMUTABLE LANGUAGE sql
           AS $$SELECT enum_last(NULL::public.mood)::text$$;
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f() FROM orders;",
        "ALTER TYPE mood ADD VALUE 'happy' AFTER 'ok';",
    ),
    case(
        "a collation that a function's text names",
        "CREATE COLLATION mine (provider = libc, locale = 'C');
         CREATE FUNCTION f(text) RETURNS bool IMMUTABLE LANGUAGE sql
           AS $$SELECT $1 < 'F' COLLATE public.mine$$;
         CREATE MATERIALIZED VIEW the_view AS SELECT id, f(region) FROM orders;",
        "DROP COLLATION mine; CREATE COLLATION mine (provider = icu, locale = 'en');",
    ),
    case(
        "an attribute of a composite type",
        "CREATE TYPE place AS (street text, town text); CREATE TABLE places (id int, place place);
         INSERT INTO places VALUES (1, ROW('a', 'b'));
         CREATE MATERIALIZED VIEW the_view AS SELECT id, to_jsonb(place) FROM places;",
        "ALTER TYPE place RENAME ATTRIBUTE town TO city;",
    ),
    case(
        "a column of a table that is the type of a column",
        "CREATE TABLE place (street text, town text); CREATE TABLE places (id int, places place[]);
         INSERT INTO places VALUES (1, ARRAY[ROW('a', 'b')::place]);
         CREATE MATERIALIZED VIEW the_view AS SELECT id, to_jsonb(places) FROM places;",
        "ALTER TABLE place RENAME COLUMN town TO city;",
    ),
    // Text search.
    case(
        "a text search configuration",
        "CREATE TEXT SEARCH CONFIGURATION mine (COPY = simple);
         CREATE MATERIALIZED VIEW the_view AS
           SELECT id, to_tsvector('public.mine', region || ' orders') FROM orders;",
        "ALTER TEXT SEARCH CONFIGURATION mine ALTER MAPPING FOR asciiword WITH english_stem;",
    ),
    case(
        "a text search dictionary",
        "CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple);
         CREATE TEXT SEARCH CONFIGURATION mine (COPY = simple);
         ALTER TEXT SEARCH CONFIGURATION mine ALTER MAPPING FOR asciiword WITH words;
         CREATE MATERIALIZED VIEW the_view AS
           SELECT id, to_tsvector('public.mine', region || ' the') FROM orders;",
        "ALTER TEXT SEARCH DICTIONARY words (STOPWORDS = english);",
    ),
    // Row-level security.
    case(
        "a policy",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; GRANT SELECT ON orders TO $role;
         CREATE POLICY kept ON orders TO $role USING (amount > 1);
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "ALTER POLICY kept ON orders USING (amount > 3);",
    ),
    case(
        "one more policy",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; GRANT SELECT ON orders TO $role;
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "CREATE POLICY kept ON orders USING (amount > 3);",
    ),
    case(
        "a policy less",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; GRANT SELECT ON orders TO $role;
         CREATE POLICY kept ON orders USING (amount > 3);
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "DROP POLICY kept ON orders;",
    ),
    case(
        "whether policies apply",
        "GRANT SELECT ON orders TO $role; CREATE POLICY kept ON orders USING (amount > 3);
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY;",
    ),
    case(
        "whether policies apply to the owner of the table",
        "CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         CREATE POLICY kept ON orders USING (amount > 3);
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; ALTER TABLE orders OWNER TO $role;
         REFRESH MATERIALIZED VIEW the_view;",
        "ALTER TABLE orders FORCE ROW LEVEL SECURITY;",
    ),
    case(
        "who owns the view",
        "GRANT SELECT ON orders TO $role; CREATE POLICY kept ON orders USING (amount > 3);
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;",
        "ALTER MATERIALIZED VIEW the_view OWNER TO $role;",
    ),
    case(
        "who owns a plain view below",
        "GRANT SELECT ON orders TO $role; CREATE POLICY kept ON orders USING (amount > 3);
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         CREATE VIEW low AS SELECT id FROM orders;
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM low;",
        "ALTER VIEW low OWNER TO $role;",
    ),
    case(
        "with whose rights a plain view reads",
        "GRANT SELECT ON orders TO $role; CREATE POLICY kept ON orders USING (amount > 3);
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         CREATE VIEW low AS SELECT id FROM orders; GRANT SELECT ON low TO $role;
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM low;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "ALTER VIEW low SET (security_invoker = on);",
    ),
    case(
        "who is a member of whom",
        "GRANT SELECT ON orders TO $role; CREATE POLICY kept ON orders TO $group USING (amount > 3);
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "GRANT $group TO $role;",
    ),
    case(
        "whether a role inherits",
        "GRANT SELECT ON orders TO $role; CREATE POLICY kept ON orders TO $group USING (amount > 3);
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY; GRANT $group TO $role;
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "REVOKE $group FROM $role; ALTER ROLE $role NOINHERIT; GRANT $group TO $role;",
    ),
    case(
        "whom policies do not apply to",
        "GRANT SELECT ON orders TO $role; CREATE POLICY kept ON orders USING (amount > 3);
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "ALTER ROLE $role BYPASSRLS;",
    ),
    case(
        "a function of a policy",
        "CREATE FUNCTION f(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 1';
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY; GRANT SELECT ON orders TO $role;
         CREATE POLICY kept ON orders TO $role USING (f(amount));
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "CREATE OR REPLACE FUNCTION f(int) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 3';",
    ),
    // No definition, and to be noticed all the same.
    case(
        "the rows of a table that a policy reads",
        "CREATE TABLE allowed (id int); INSERT INTO allowed VALUES (1), (2);
         GRANT SELECT ON allowed, orders TO $role;
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
         CREATE POLICY kept ON orders USING (id IN (SELECT id FROM allowed));
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;
         ALTER MATERIALIZED VIEW the_view OWNER TO $role; REFRESH MATERIALIZED VIEW the_view;",
        "INSERT INTO allowed VALUES (3);",
    ),
    // Tables.
    case(
        "a partition that is attached",
        "CREATE TABLE parted (id int) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10);
         CREATE TABLE high (id int); INSERT INTO parted VALUES (1); INSERT INTO high VALUES (11);
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM parted;",
        "ALTER TABLE parted ATTACH PARTITION high FOR VALUES FROM (10) TO (20);",
    ),
    case(
        "a partition that is detached",
        "CREATE TABLE parted (id int) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10);
         CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20);
         INSERT INTO parted VALUES (1), (11);
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM parted;",
        "ALTER TABLE parted DETACH PARTITION high;",
    ),
    case(
        "a table that inherits",
        "CREATE TABLE child (LIKE orders); INSERT INTO child VALUES (100, 'jp', 1);
         CREATE MATERIALIZED VIEW the_view AS SELECT id FROM orders;",
        "ALTER TABLE child INHERIT orders;",
    ),
    case(
        "the name of a column",
        "CREATE MATERIALIZED VIEW the_view AS SELECT id, to_jsonb(o) FROM orders o;",
        "ALTER TABLE orders RENAME COLUMN region TO area;",
    ),
    case(
        "one more column, which all rows have at once",
        "CREATE TABLE place (id int, town text);
         CREATE MATERIALIZED VIEW the_view AS SELECT id, place::text AS row FROM place;
         INSERT INTO place VALUES (1, 'a');",
        "ALTER TABLE place ADD COLUMN n int DEFAULT 7;",
    ),
    Case {
        since: 180_000,
        ..case(
            "the expression of a column that is generated when it is read",
            "CREATE TABLE boxes (id int, n int GENERATED ALWAYS AS (id + 1) VIRTUAL);
             INSERT INTO boxes VALUES (1);
             CREATE MATERIALIZED VIEW the_view AS SELECT id, n FROM boxes;",
            "ALTER TABLE boxes ALTER COLUMN n SET EXPRESSION AS (id + 2);",
        )
    },
    // Settings apply to connections that are made later.
    case(
        "a setting of the database",
        "CREATE MATERIALIZED VIEW the_view AS
           SELECT id, to_char(timestamptz '2026-01-01 00:00Z', 'HH24:MI') FROM orders;",
        "ALTER DATABASE $database SET TimeZone = 'Asia/Tokyo';
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE datname = current_database() AND pid <> pg_backend_pid();",
    ),
    case(
        "a setting of the role",
        "CREATE MATERIALIZED VIEW the_view AS
           SELECT id, to_char(timestamptz '2026-01-01 00:00Z', 'HH24:MI') FROM orders;",
        "DO $$BEGIN EXECUTE format('ALTER ROLE %I IN DATABASE $database SET TimeZone = ''Asia/Tokyo''',
           current_user); END$$;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE datname = current_database() AND pid <> pg_backend_pid();",
    ),
];
