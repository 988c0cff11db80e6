"""The official SDK for Python as a client: argument 1 is the server's address."""

import sys

import requests
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.conversion import to_binary, to_structured
from cloudevents.v1.http import CloudEvent as FirstCloudEvent

url = sys.argv[1] + "/v1/events"
STREAM = "sdk/python ä"


def attributes(number, **more):
    return {"type": "com.example.sdk", "source": "/python", "id": f"py-{number}", "subject": STREAM, **more}


def data(number):
    return {"number": number, "text": "ä€😀"}


def post(headers, body):
    answer = requests.post(url, data=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def sent(message):
    return post(message.headers, message.body)


structured = sent(to_structured_event(CloudEvent(attributes(1, expectedversion="0", traceparent="00-1"), data(1))))
assert structured["accepted"] == 1 and structured["streams"] == {STREAM: 1}, structured
binary = sent(to_binary_event(CloudEvent(attributes(2, expectedversion="1", dataversion="2"), data(2))))
assert binary["accepted"] == 1 and binary["streams"] == {STREAM: 2}, binary
again = sent(to_binary_event(CloudEvent(attributes(1), data(1))))
assert again["duplicates"] == 1 and again["first_position"] == structured["first_position"], again
# The interface of the SDK's first version, which is what most programs use.
first = post(*to_structured(FirstCloudEvent(attributes(3, expectedversion="2"), data(3))))
assert first["streams"] == {STREAM: 3}, first
first = post(*to_binary(FirstCloudEvent(attributes(4, subject="sdk-python", expectedversion="0"), data(4))))
assert first["streams"] == {"sdk-python": 1}, first

stream = requests.get(sys.argv[1] + "/v1/streams/sdk%2Fpython%20%C3%A4", timeout=30).json()
assert [e["id"] for e in stream["events"]] == ["py-1", "py-2", "py-3"], stream
assert [e["data"] for e in stream["events"]] == [data(1), data(2), data(3)], stream
assert stream["events"][0]["metadata"]["traceparent"] == "00-1", stream
assert stream["events"][1]["version"] == 2, stream
print("python: structured and binary by both interfaces, duplicate: ok")
