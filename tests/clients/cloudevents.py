"""The official SDK for Python as a client: argument 1 is the server's address."""

import sys

import requests
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent

url = sys.argv[1] + "/v1/events"


def event(number, **attributes):
    attributes = {"type": "com.example.sdk", "source": "/python", "id": f"py-{number}", **attributes}
    return CloudEvent(attributes, {"number": number, "text": "ä€😀"})


def post(headers, body):
    answer = requests.post(url, data=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


structured = post(*to_structured(event(1, subject="sdk/python", expectedversion="0", traceparent="00-1")))
assert structured["accepted"] == 1 and structured["streams"] == {"sdk/python": 1}, structured
binary = post(*to_binary(event(2, subject="sdk/python", expectedversion="1", dataversion="2")))
assert binary["accepted"] == 1 and binary["streams"] == {"sdk/python": 2}, binary
again = post(*to_binary(event(1, subject="sdk/python")))
assert again["duplicates"] == 1 and again["first_position"] == structured["first_position"], again

lines = requests.get(f"{url}?type=com.example.sdk", timeout=30).text.splitlines()
stream = requests.get(sys.argv[1] + "/v1/streams/sdk%2Fpython", timeout=30).json()
assert [e["id"] for e in stream["events"]] == ["py-1", "py-2"], stream
assert [e["data"]["number"] for e in stream["events"]] == [1, 2], stream
assert all(e["data"]["text"] == "ä€😀" for e in stream["events"]), stream
assert stream["events"][0]["metadata"]["traceparent"] == "00-1", stream
assert stream["events"][1]["version"] == 2, stream
assert len(lines) >= 2
print("python: structured, binary, duplicate: ok")
