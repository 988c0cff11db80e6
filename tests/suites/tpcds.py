"""Writes TPC-DS into a directory: q01.sql to q99.sql, the rows of each table as JSON lines, and
tables.json with the columns of each table. `make tpcds` installs DuckDB with its extension."""
import importlib.util
import json
import pathlib
import sys

import duckdb

SCALE = 0.01

directory = pathlib.Path(sys.argv[1])
package = importlib.util.find_spec("duckdb_extension_tpcds").origin
extension = next(pathlib.Path(package).parent.glob("extensions/*/tpcds.duckdb_extension"))
connection = duckdb.connect(config={"threads": 1})
connection.execute(f"LOAD '{extension}'")
connection.execute(f"CALL dsdgen(sf={SCALE})")
for number, query in connection.execute("SELECT query_nr, query FROM tpcds_queries()").fetchall():
    (directory / f"q{number:02}.sql").write_text(query)
columns = connection.execute(
    "SELECT table_name, column_name, data_type FROM information_schema.columns "
    "ORDER BY table_name, ordinal_position"
).fetchall()
tables = {}
for table, column, data_type in columns:
    tables.setdefault(table, []).append([column, data_type.replace("VARCHAR", "TEXT")])
(directory / "tables.json").write_text(json.dumps(tables))
for table in tables:
    connection.execute(f"COPY {table} TO '{directory / table}.json' (FORMAT json)")
