"""Superset against the own ClickHouse, through its REST API, as an analyst uses it.

analysts_superset.py: reads from standard input {"url", "user", "password", "database", "sql"}, and prints what it saw, as
JSON: its version, the schemas, the tables and views of the database, the columns of each one of them as a
dataset has them, and what SQL Lab answers to `sql`.
"""

import importlib.metadata
import json
import os
import pathlib
import secrets
import sys
import tempfile
from urllib.parse import quote, urlparse

given = json.load(sys.stdin)
# Superset tells of its migrations on standard output.
told, sys.stdout = sys.stdout, sys.stderr
directory = pathlib.Path(tempfile.mkdtemp(prefix="superset."))
(directory / "superset_config.py").write_text(f"""
SECRET_KEY = {secrets.token_hex(32)!r}
SQLALCHEMY_DATABASE_URI = "sqlite:///{directory}/superset.db"
WTF_CSRF_ENABLED = False
TALISMAN_ENABLED = False
RATELIMIT_ENABLED = False
""")
os.environ["SUPERSET_CONFIG_PATH"] = str(directory / "superset_config.py")
os.environ["SUPERSET_HOME"] = str(directory)

from flask_migrate import upgrade  # noqa: E402
from superset.app import create_app  # noqa: E402

app = create_app()
address = urlparse(given["url"])
uri = "clickhousedb://{}:{}@{}:{}/{}".format(
    quote(given["user"]), quote(given["password"]), address.hostname, address.port, given["database"])


def ask(client, method, path, headers, **arguments):
    answer = client.open(path, method=method, headers=headers, **arguments)
    if answer.status_code >= 300:
        sys.exit(f"{method} {path}: {answer.status} {answer.get_data(as_text=True)}")
    return answer.get_json()


with app.app_context():
    from superset import security_manager

    upgrade(directory=str(pathlib.Path(sys.modules["superset"].__file__).parent / "migrations"))
    app.appbuilder.add_permissions(update_perms=True)
    security_manager.sync_role_definitions()
    security_manager.add_user(
        "admin", "a", "b", "a@example.com", security_manager.find_role("Admin"), password="admin")

with app.test_client() as client:
    login = {"username": "admin", "password": "admin", "provider": "db"}
    token = ask(client, "POST", "/api/v1/security/login", {}, json=login)["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    made = ask(client, "POST", "/api/v1/database/", headers, json={
        "database_name": "heliostat", "sqlalchemy_uri": uri, "expose_in_sqllab": True})
    number = made["id"]
    schemas = ask(client, "GET", f"/api/v1/database/{number}/schemas/", headers)["result"]
    schema = given["database"]
    tables = ask(client, "GET", f"/api/v1/database/{number}/tables/?q=(schema_name:{schema})", headers)["result"]
    # clickhouse-connect tells of each view twice, as a table and as a view.
    names = sorted({table["value"] for table in tables})
    columns = {}
    for name in names:
        dataset = {"database": number, "schema": schema, "table_name": name}
        made = ask(client, "POST", "/api/v1/dataset/", headers, json=dataset)
        dataset = ask(client, "GET", f"/api/v1/dataset/{made['id']}", headers)["result"]
        columns[name] = {
            column["column_name"]: column["type"] for column in dataset["columns"]}
    answer = ask(client, "POST", "/api/v1/sqllab/execute/", headers, json={
        "database_id": number, "schema": schema, "sql": given["sql"], "runAsync": False, "queryLimit": 1000})

json.dump({
    "version": importlib.metadata.version("apache-superset"),
    "schemas": schemas,
    "tables": names,
    "columns": columns,
    "rows": answer["data"],
}, told, default=str)
