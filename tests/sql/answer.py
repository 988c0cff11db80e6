"""Answers queries over tables for the tests: one JSON object a line in, one out."""
import json
import sys

import duckdb


def answers(connection, request):
    for statement in request["setup"]:
        try:
            connection.execute(statement)
        except Exception as error:
            return [{"error": f"{statement}: {error}"}]
    for statement in request["views"]:
        try:
            connection.execute(statement)
        except Exception:
            pass  # whoever reads the view gets the error
    answers = []
    for query in request["queries"]:
        try:
            answers.append({"rows": connection.execute(query).fetchall()})
        except Exception as error:
            answers.append({"error": str(error)})
    return answers


connection = duckdb.connect(config={"threads": 1})
connection.execute("SET TimeZone = 'UTC'")
connection.execute("SET default_null_order = 'nulls_last_on_asc_first_on_desc'")
connection.execute("SET integer_division = true")
for line in sys.stdin:
    # A database for each request: making one costs far less than a connection.
    connection.execute("ATTACH ':memory:' AS asked")
    connection.execute("USE asked")
    answered = {"answers": answers(connection, json.loads(line))}
    sys.stdout.write(json.dumps(answered) + "\n")
    sys.stdout.flush()
    connection.execute("USE memory")
    connection.execute("DETACH asked")
