"""Answers queries over tables for the tests: one JSON object a line in, one out."""
import json
import sys

import duckdb

for line in sys.stdin:
    request = json.loads(line)
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET default_null_order = 'nulls_last_on_asc_first_on_desc'")
    connection.execute("SET integer_division = true")
    answers = []
    for statement in request["setup"]:
        try:
            connection.execute(statement)
        except Exception as error:
            answers.append({"error": f"{statement}: {error}"})
            break
    else:
        for statement in request.get("views", []):
            try:
                connection.execute(statement)
            except Exception:
                pass  # whoever reads the view gets the error
        for query in request["queries"]:
            try:
                answers.append({"rows": connection.execute(query).fetchall()})
            except Exception as error:
                answers.append({"error": str(error)})
    connection.close()
    sys.stdout.write(json.dumps({"answers": answers}) + "\n")
    sys.stdout.flush()
