//! May the result of a query change with nothing written that the cache is told of?

use larder::QueryClass::{Dynamic, Static, Unfollowed};
use larder::{QueryClass, QueryDependencies};

use super::with;
use crate::support::local;

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v int, at timestamptz, d date, words text);
    CREATE TABLE t2 (id int PRIMARY KEY, v int); CREATE SEQUENCE sq;
    CREATE VIEW recent AS SELECT * FROM t WHERE at > now() - interval '1 day';
    CREATE VIEW plain AS SELECT id FROM t; CREATE VIEW over_recent AS SELECT id FROM recent;
    CREATE FUNCTION f_vol() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT max(v) FROM t); END $$;
    CREATE FUNCTION f_now() RETURNS bool LANGUAGE plpgsql STABLE AS
      $$ BEGIN RETURN EXISTS (SELECT FROM t WHERE at > now()); END $$;
    CREATE FUNCTION f_curdate() RETURNS bool LANGUAGE sql AS
      'SELECT EXISTS (SELECT FROM t WHERE d = CURRENT_DATE)';
    CREATE FUNCTION f_nested() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN f_now(); END $$;
    CREATE FUNCTION f_dyn(x text) RETURNS bigint LANGUAGE plpgsql AS
      $$ DECLARE n bigint; BEGIN EXECUTE x INTO n; RETURN n; END $$;
    CREATE FUNCTION f_exc() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int; BEGIN
      BEGIN SELECT max(v) INTO x FROM t2; RAISE division_by_zero;
      EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN x; END $$;
    CREATE FUNCTION f_exc_seq() RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int; BEGIN
      BEGIN SELECT last_value INTO x FROM sq; RAISE division_by_zero;
      EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN x; END $$;
    CREATE FUNCTION f_par(int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE AS
      $$ BEGIN RETURN (SELECT v FROM t2 WHERE id = $1); END $$;
    CREATE FUNCTION f_atomic(int) RETURNS int LANGUAGE sql
      BEGIN ATOMIC SELECT v FROM t WHERE id = $1 AND random() < 2; END;
    CREATE FUNCTION f_comment() RETURNS int LANGUAGE plpgsql AS
      $$ BEGIN /* now() is not called; 'random()' neither */ RETURN 'now()' = (SELECT max(v)::text FROM t); END $$;
    CREATE FUNCTION f_mentions() RETURNS int LANGUAGE plpgsql AS
      $$ BEGIN /* now() is not called; 'random()' neither */ RETURN 'random()' = (SELECT max(v)::text FROM t); END $$;
    CREATE FUNCTION f_default(x timestamptz DEFAULT now()) RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN RETURN EXISTS (SELECT FROM t WHERE at > x); END $$;
    CREATE FUNCTION f_of_row(t) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN ($1).at > now(); END $$;
    CREATE FUNCTION f_member() RETURNS bigint LANGUAGE plpgsql AS
      $$ BEGIN RETURN (SELECT count(*) FROM t WHERE t.f_of_row); END $$;
    CREATE FUNCTION f_today() RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN RETURN EXISTS (SELECT FROM t WHERE d = 'today'); END $$;
    CREATE FUNCTION f_setting() RETURNS text LANGUAGE plpgsql AS
      $$ BEGIN RETURN current_setting('app.f', true); END $$;
    CREATE FUNCTION f_any_setting(x text) RETURNS text LANGUAGE plpgsql AS
      $$ BEGIN RETURN current_setting(x, true); END $$;
    CREATE FUNCTION f_reads_recent() RETURNS bigint LANGUAGE plpgsql AS
      $$ BEGIN RETURN (SELECT count(*) FROM recent); END $$;
    CREATE FUNCTION f_lies() RETURNS int LANGUAGE plpgsql IMMUTABLE AS
      $$ BEGIN RETURN (SELECT max(v) FROM t2); END $$;
    CREATE FUNCTION f_pure(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1 + 1; END $$;
    CREATE FUNCTION opf(int, int) RETURNS bool LANGUAGE plpgsql AS
      $$ BEGIN RETURN clock_timestamp() IS NOT NULL AND $1 < $2; END $$;
    CREATE OPERATOR <~ (FUNCTION = opf, LEFTARG = int, RIGHTARG = int);
    CREATE FUNCTION f_operator() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN 1 <~ 2; END $$;
    CREATE FUNCTION sf(bigint, int) RETURNS bigint LANGUAGE plpgsql AS
      $$ BEGIN RETURN $1 + (random())::int; END $$;
    CREATE AGGREGATE agg(int) (SFUNC = sf, STYPE = bigint, INITCOND = '0');
    CREATE FUNCTION dchk(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN now() IS NOT NULL; END $$;
    CREATE DOMAIN dom AS int CHECK (dchk(value));
    CREATE TABLE rls (id int, who text); ALTER TABLE rls ENABLE ROW LEVEL SECURITY;
    CREATE POLICY pol ON rls USING (who = current_user);
    CREATE TABLE rls2 (id int, until timestamptz); ALTER TABLE rls2 ENABLE ROW LEVEL SECURITY;
    CREATE POLICY pol ON rls2 USING (until > now());
    CREATE TABLE rls3 (id int, tenant text); ALTER TABLE rls3 ENABLE ROW LEVEL SECURITY;
    CREATE POLICY pol ON rls3 USING (tenant = current_setting('app.tenant'))";

const CASES: &[(&str, QueryClass)] = &[
    ("SELECT v FROM t WHERE id = $1", Static),
    ("SELECT count(*), sum(v), avg(v) FROM t GROUP BY d", Static),
    ("SELECT * FROM t WHERE at > now() - interval '1 hour'", Unfollowed),
    ("SELECT * FROM t WHERE d = CURRENT_DATE", Unfollowed),
    ("SELECT * FROM t WHERE at > '2024-01-01'", Static),
    ("SELECT date_trunc('day', at), count(*) FROM t GROUP BY 1", Static),
    ("SELECT at::date, to_char(at, 'YYYY') FROM t", Static),
    ("SELECT d = at FROM t", Static),
    ("SELECT * FROM t ORDER BY random() LIMIT 1", Unfollowed),
    ("SELECT gen_random_uuid(), v FROM t", Unfollowed),
    ("SELECT nextval('sq')", Unfollowed),
    ("SELECT last_value FROM sq", Unfollowed),
    ("SELECT * FROM plain", Static),
    ("SELECT * FROM recent", Unfollowed),
    ("SELECT * FROM over_recent", Unfollowed),
    ("SELECT f_vol()", Dynamic),
    ("SELECT f_now()", Unfollowed),
    ("SELECT f_curdate()", Unfollowed),
    ("SELECT f_nested()", Unfollowed),
    ("SELECT f_dyn('SELECT 1')", Unfollowed),
    ("SELECT f_exc()", Dynamic),
    ("SELECT f_par(1)", Dynamic),
    ("SELECT f_atomic(1)", Unfollowed),
    // Refused, though the text is compared as a text: PostgreSQL reads 'now()' as a time, too.
    ("SELECT f_comment()", Unfollowed),
    ("SELECT f_mentions()", Dynamic),
    ("SELECT 1 <~ 2", Unfollowed),
    ("SELECT agg(id) FROM t", Unfollowed),
    ("SELECT $1::int::dom", Unfollowed),
    ("SELECT * FROM rls", Static),
    ("SELECT * FROM rls2", Unfollowed),
    ("SELECT current_user, v FROM t", Static),
    ("SELECT current_setting('app.x', true), v FROM t", Static),
    ("SELECT * FROM t TABLESAMPLE BERNOULLI (10)", Unfollowed),
    ("SELECT count(*) FROM pg_class", Unfollowed),
    ("SELECT 't'::regclass::oid, v FROM t", Static),
    ("SELECT pg_relation_size('t') FROM t", Unfollowed),
    ("SELECT has_table_privilege('t','SELECT') FROM t", Unfollowed),
    ("SELECT txid_current()", Unfollowed),
    ("WITH x AS (INSERT INTO t2 VALUES (1,1) RETURNING id) SELECT * FROM x", Unfollowed),
    ("SELECT row_to_json(t), jsonb_agg(v) OVER () FROM t", Static),
    ("SELECT lower(v::text) COLLATE \"C\", md5(v::text) FROM t", Static),
    ("SELECT pg_sleep(0) FROM t", Unfollowed),
    ("SELECT age(at) FROM t", Unfollowed),
    ("SELECT age(at, at) FROM t", Static),
    ("SELECT v::text, ARRAY[v]::text[], at::text FROM t", Static),
    // Refused, though these columns would do: one of them may be a date, and its text 'today'.
    ("SELECT x.* FROM t, LATERAL jsonb_to_record('{}') AS x(a int)", Unfollowed),
    ("SELECT string_agg(v::text, ',' ORDER BY id) FILTER (WHERE v > 1) FROM t", Static),
    ("SELECT query_to_xml('SELECT 1', true, true, '')", Unfollowed),
    ("SELECT to_tsvector('english', v::text) FROM t", Static),
    ("VALUES (1), (2)", Static),
    // Further than the trees show.
    ("SELECT * FROM t WHERE d = 'today'", Unfollowed),
    ("SELECT * FROM t WHERE d = 'tomorrow'::date", Unfollowed),
    ("SELECT words::date FROM t", Unfollowed),
    ("SELECT $1::text::timestamptz", Unfollowed),
    ("SELECT f_today()", Unfollowed),
    ("SELECT f_default()", Unfollowed),
    ("SELECT f_member()", Unfollowed),
    ("SELECT t.f_of_row FROM t", Unfollowed),
    ("SELECT f_setting()", Dynamic),
    ("SELECT f_any_setting('x')", Unfollowed),
    ("SELECT current_setting(words, true) FROM t", Unfollowed),
    ("SELECT f_exc_seq()", Unfollowed),
    ("SELECT f_operator()", Unfollowed),
    ("SELECT f_lies()", Unfollowed),
    ("SELECT f_pure(v) FROM t", Static),
    ("SELECT * FROM rls3", Static),
    ("SELECT * FROM t FOR SHARE", Unfollowed),
    ("INSERT INTO t2 VALUES (1, 1)", Unfollowed),
    ("UPDATE t2 SET v = 1 RETURNING v", Unfollowed),
    ("SHOW TimeZone", Unfollowed),
    ("SELECT nothing_like_it FROM t", Unfollowed),
    ("SELECT", Static),
];

#[tokio::test]
async fn no_query_is_wrongly_followed_and_few_are_needlessly_refused() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let mut wrong = vec![];
    for (sql, expected) in CASES {
        let found = cache.query(*sql).dependencies(&pool).await.unwrap();
        if found.class != *expected {
            wrong.push(format!("{sql}: {found:?}"));
        }
        assert_eq!(found.unfollowed.is_empty(), found.class != Unfollowed, "{sql}: {found:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_function_that_reads_a_view_is_judged_by_the_view_when_it_is_run() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    // Before it is run, nobody knows which view it reads.
    let query = cache.query("SELECT f_reads_recent()").auto();
    assert_eq!(query.dependencies(&pool).await.unwrap().class, Dynamic);
    for _ in 0..3 {
        let origin = super::read(&query, &pool).await.origin();
        assert_eq!(origin, larder::Origin::Loaded);
    }
    let found: QueryDependencies = query.params(()).dependencies(&pool).await.unwrap();
    assert_eq!((found.class, &*found.unfollowed), (Unfollowed, &["it calls now()".to_owned()][..]));
}

#[tokio::test]
async fn reasons_and_needs_are_written_for_a_person() {
    let (_database, pool) = with(SCHEMA).await;
    let cache = local().await;
    let of = async |sql: &str| cache.query(sql).dependencies(&pool).await.unwrap();
    assert_eq!(of("SELECT now()").await.unfollowed, ["it calls now()"]);
    assert_eq!(of("SELECT f_nested()").await.unfollowed, ["f_now() calls now()"]);
    let found = of("SELECT last_value FROM sq").await;
    assert_eq!(
        found.unfollowed,
        ["it reads public.sq, a sequence, which advances without a commit"]
    );
    let found = of("SELECT date_trunc('day', at) FROM t WHERE id = $1 AND v = $2").await;
    assert_eq!(found.needs, ["DateStyle", "IntervalStyle", "TimeZone"]);
    assert_eq!(found.parameters, ["integer", "integer"]);
    assert_eq!(found.relations, ["public.t"]);
    assert_eq!(of("SELECT * FROM rls3").await.needs, ["app.tenant", "role"]);
    let found = of("SELECT f_lies()").await.unfollowed.remove(0);
    assert!(found.contains("f_lies()") && found.contains("STABLE"), "{found}");
    let found = of("SELECT nothing_like_it FROM t").await.unfollowed.remove(0);
    assert!(found.contains("nothing_like_it") && found.contains("42703"), "{found}");
}
