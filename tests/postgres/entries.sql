-- What PostgreSQL has over the types that views can have: kind, name, argument types, result type, whether it
-- returns a set, and how arguments may repeat. Left out, by rule:
--  * what is volatile, depends on the session, the clock, the catalogue or a right;
--  * what only implements something else: an operator's or a cast's function, input and output, index and
--    aggregate support, synonyms that no documentation has;
--  * rows as values, whose type is known at run time only.
WITH scalar AS (
  SELECT oid, typarray FROM pg_type
  WHERE typnamespace = 'pg_catalog'::regnamespace
    AND typname IN ('bool', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'text', 'varchar', 'bpchar', 'bytea',
                    'date', 'time', 'timestamp', 'timestamptz', 'interval', 'uuid', 'json', 'jsonb')
), known AS (
  SELECT oid FROM scalar
  UNION ALL SELECT typarray FROM scalar
  UNION ALL SELECT oid FROM pg_type
  WHERE typname IN ('any', 'anyelement', 'anyarray', 'anynonarray', 'anycompatible', 'anycompatiblearray', 'anycompatiblenonarray')
), procedure AS (
  SELECT p.*, coalesce(obj_description(p.oid, 'pg_proc'), '') AS description,
    (SELECT coalesce(array_agg(format_type(t, NULL) ORDER BY n), '{}') FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(t, n)) AS types,
    CASE WHEN p.provariadic = '"any"'::regtype THEN 'any' WHEN p.provariadic <> 0 THEN 'one' ELSE '' END AS repeated
  FROM pg_proc p
  WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'a', 'w') AND p.provolatile <> 'v'
    AND NOT EXISTS (SELECT FROM unnest(p.proargtypes::oid[]) AS a(t) WHERE t NOT IN (SELECT oid FROM known))
    AND (p.prorettype IN (SELECT oid FROM known) OR p.proname ~ '^jsonb?_each')
), candidate AS (
  SELECT * FROM procedure p
  WHERE (description !~ '^implementation of' OR proname = 'starts_with')
    AND description !~ '^(adjust (char|varchar|numeric)|adjust \w+( \w+)? precision|increment$|aggregate transition)'
    AND oid NOT IN (SELECT castfunc FROM pg_cast)
    AND oid NOT IN (SELECT amproc FROM pg_amproc)
    AND oid NOT IN (SELECT unnest(ARRAY[typinput, typoutput, typreceive, typsend, typmodin, typmodout, typanalyze, typsubscript]::oid[]) FROM pg_type)
    AND oid NOT IN (SELECT unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[]) FROM pg_aggregate)
    -- Of the session, the catalogue, the clock.
    AND proname !~ '^(pg_|txid_|has_|inet_|ts_|xml|cursor_to_|current_|getdatabase|query_to_|table_to_|schema_to_|database_to_)'
    AND proname !~ '(_subdiff|_to_xml|_to_xmlschema|_to_xml_and_xmlschema)$'
    AND proname NOT IN ('version', 'row_security_active', 'now', 'statement_timestamp', 'transaction_timestamp', 'session_user',
                        'obj_description', 'shobj_description', 'col_description', 'format_type', 'like_escape', 'similar_escape',
                        'similar_to_escape', 'to_ascii', 'icu_unicode_version', 'unicode_version')
    AND NOT (proname = 'age' AND pronargs = 1)
    -- Another name of an operator's function, or of a function, that no documentation has.
    AND NOT EXISTS (SELECT FROM pg_operator o JOIN pg_proc f ON f.oid = o.oprcode
                    WHERE f.prosrc = p.prosrc AND f.proargtypes = p.proargtypes AND p.proname IN (p.prosrc, 'like', 'notlike')
                      AND f.oid <> p.oid)
    AND NOT (proname = prosrc AND EXISTS (SELECT FROM procedure o
                    WHERE o.prosrc = p.prosrc AND o.proargtypes = p.proargtypes AND o.proname <> o.prosrc AND o.oid <> p.oid))
    AND proname NOT IN ('int4inc', 'int8_sum', 'numeric_inc', 'numeric_div_trunc', 'timestamp', 'timestamptz')
    AND proname !~ '^jsonb?_(populate|to)_record'
)
SELECT * FROM (
  SELECT 'function' AS kind, proname AS name, types, format_type(prorettype, NULL) AS result, proretset AS many, repeated
  FROM candidate WHERE prokind = 'f'
  UNION ALL
  SELECT CASE aggkind WHEN 'n' THEN 'aggregate' ELSE 'ordered-set aggregate' END, proname, types, format_type(prorettype, NULL), false, repeated
  FROM candidate JOIN pg_aggregate ON aggfnoid = oid WHERE prokind = 'a'
  UNION ALL
  SELECT 'window function', proname, types, format_type(prorettype, NULL), false, repeated
  FROM candidate WHERE prokind = 'w'
  UNION ALL
  SELECT 'operator', oprname, CASE oprleft WHEN 0 THEN ARRAY[format_type(oprright, NULL)]
      ELSE ARRAY[format_type(oprleft, NULL), format_type(oprright, NULL)] END, format_type(oprresult, NULL), false, ''
  FROM pg_operator JOIN pg_proc f ON f.oid = oprcode
  WHERE oprnamespace = 'pg_catalog'::regnamespace AND f.provolatile <> 'v'
    AND (oprleft = 0 OR oprleft IN (SELECT oid FROM known)) AND oprright IN (SELECT oid FROM known)
    AND oprresult IN (SELECT oid FROM known)
    -- Those that only indexes use, and text search.
    AND oprname NOT IN ('~<~', '~<=~', '~>=~', '~>~', '@@')
  UNION ALL
  SELECT 'cast', '', ARRAY[format_type(castsource, NULL), format_type(casttarget, NULL)], format_type(casttarget, NULL), false, ''
  FROM pg_cast WHERE castsource IN (SELECT oid FROM scalar) AND casttarget IN (SELECT oid FROM scalar) AND castsource <> casttarget
  UNION ALL
  -- Every type is written as text and read from it.
  SELECT 'cast', '', CASE n WHEN 0 THEN ARRAY[format_type(t.oid, NULL), 'text'] ELSE ARRAY['text', format_type(t.oid, NULL)] END,
    CASE n WHEN 0 THEN 'text' ELSE format_type(t.oid, NULL) END, false, ''
  FROM (SELECT oid FROM scalar UNION ALL SELECT typarray FROM scalar WHERE typarray IN ('int4[]'::regtype, 'text[]'::regtype, 'numeric[]'::regtype)) t,
    generate_series(0, 1) AS n
  WHERE NOT EXISTS (SELECT FROM pg_cast WHERE castsource = CASE n WHEN 0 THEN t.oid ELSE 'text'::regtype END AND casttarget = CASE n WHEN 0 THEN 'text'::regtype ELSE t.oid END)
    AND t.oid <> 'text'::regtype
) AS entry
ORDER BY kind, name, types, result
