"""Analysts' clients against the own ClickHouse: clickhouse-connect over HTTP, clickhouse-driver over the
native protocol.

analysts.py: reads from standard input {"url", "native", "user", "password", "attempts": [SQL],
"fixed": ["setting=value"]}, and prints what it saw, as JSON: for each client the tables and some rows, which
attempts got through as the user, as ClickHouse's own login, and with a wrong password; over the native protocol
also which settings the user has changed, which error ends queries that take too much memory, which one a
seventeenth query gets beside sixteen, and what is answered after what is no message of the protocol.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from urllib.parse import urlparse

import clickhouse_connect
from clickhouse_driver import Client
from clickhouse_driver import errors

given = json.load(sys.stdin)
user, password = given["user"], given["password"]
http = urlparse(given["url"])
native_host, native_port = given["native"].rsplit(":", 1)

ROWS = "SELECT * FROM details ORDER BY id"


def connect():
    client = clickhouse_connect.get_client(
        host=http.hostname, port=http.port, database="heliostat", username=user, password=password)
    described = client.query("DESCRIBE details")
    names = described.column_names
    return {
        "tables": [row[0] for row in client.query("SHOW TABLES").result_rows],
        "rows": [repr(row) for row in client.query(ROWS).result_rows],
        "frame": len(client.query("SELECT * FROM orders").result_rows),
        "comments": {row[names.index("name")]: row[names.index("comment")] for row in described.result_rows},
        "comment": client.query(
            "SELECT comment FROM system.tables WHERE database = 'heliostat' AND name = 'details'").result_rows[0][0],
    }


def native(name, secret, database="heliostat"):
    return Client(native_host, port=int(native_port), user=name, password=secret, database=database,
                  connect_timeout=5, send_receive_timeout=90)


def driver():
    client = native(user, password)
    return {
        "tables": [row[0] for row in client.execute("SHOW TABLES")],
        "rows": [repr(row) for row in client.execute(ROWS)],
        # Behind this answer the next one on the same connection is read from the right place.
        "frame": len(client.execute("SELECT * FROM orders")),
        "after": client.execute("SELECT 42")[0][0],
    }


def through(name, secret, database):
    """The attempts that nothing refused."""
    passed = []
    for sql in given["attempts"]:
        client = native(name, secret, database)
        try:
            # Data of INSERT goes apart here.
            client.execute(sql, [] if sql.startswith("INSERT") and "VALUES" in sql else None)
            passed.append(sql)
        except (errors.Error, EOFError, OSError):
            pass
        finally:
            client.disconnect()
    return passed


def fixed():
    """The settings that can be changed, in a query or beside one."""
    passed = []
    for setting in given["fixed"]:
        name, value = setting.split("=")
        for sql, settings in [(f"SELECT 1 SETTINGS {setting}", None), ("SELECT 1", {name: value})]:
            client = native(user, password)
            try:
                client.execute(sql, settings=settings)
                passed.append([sql, settings])
            except errors.ServerException:
                pass
            finally:
                client.disconnect()
    return passed


def code(name, secret, sql):
    """The number of the error that a query ends with."""
    client = native(name, secret, "")
    try:
        client.execute(sql)
        return 0
    except errors.ServerException as error:
        return error.code
    finally:
        client.disconnect()


def hogs():
    """How queries end that take more memory than they may."""
    return {
        "reader": code(user, password, "SELECT groupArray(number) FROM numbers(1000000000)"),
        "boot": code("default", "", "SELECT length(arrayMap(x -> toString(x), range(20000000)))"),
    }


def seventeenth():
    """How a query ends beside sixteen that run."""
    sleeping = "SELECT sleepEachRow(1) FROM numbers(60) SETTINGS max_block_size = 1"
    clients = [native(user, password) for _ in range(16)]
    over = threading.Event()

    def sleep(client):
        while not over.is_set():
            try:
                client.execute(sleeping)
            except (errors.Error, EOFError, OSError):
                pass  # The question below had the last place, or it is cut off.

    threads = [threading.Thread(target=sleep, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    answer = 0
    while answer == 0 and time.monotonic() < deadline:
        answer = code(user, password, "SELECT 1")
        time.sleep(0.05)
    over.set()
    for client, thread in zip(clients, threads):
        while thread.is_alive():
            connected = client.connection.socket
            # One that was refused a moment ago is not connected.
            if connected:
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)
            thread.join(0.1)
    return answer


def noise():
    """What a stranger may send to the native port: nothing, HTTP, and bytes that mean nothing."""
    for sent in [b"", b"GET / HTTP/1.0\r\n\r\n", b"\x00\x05hello"] + [os.urandom(200) for _ in range(20)]:
        with socket.create_connection((native_host, int(native_port)), timeout=5) as stranger:
            stranger.sendall(sent)
            stranger.shutdown(socket.SHUT_WR)
            try:
                stranger.recv(1000)
            except OSError:
                pass
    return native(user, password).execute("SELECT 43")[0][0]


json.dump({
    "connect": connect(),
    "driver": driver(),
    "through": {
        "reader": through(user, password, "heliostat"),
        "boot": through("default", "", ""),
        "wrong": through(user, "wrong", "heliostat"),
        "unknown": through("nobody", password, "heliostat"),
    },
    "fixed": fixed(),
    "hogs": hogs(),
    "noise": noise(),
    # Last, since queries that are cut off take a moment to end.
    "seventeenth": seventeenth(),
}, sys.stdout)
