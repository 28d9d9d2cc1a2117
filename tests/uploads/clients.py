"""Sends files with a client from PyPI, one after the other.

Arguments: the address of the server, `tuspy` or `requests`, the files. Prints by the name of each file whether it was stored, or
the error, as JSON.
"""

import json
import os
import sys

import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError


def with_tuspy(server, file, name):
    client = TusClient(f"http://{server}/api/uploads/tus")
    metadata = {"filename": name, "filetype": "text/plain"}
    try:
        client.uploader(file, chunk_size=8 << 20, metadata=metadata).upload()
    except TusCommunicationError as error:
        return f"{error.status_code} {error}"
    return "stored"


def with_requests(server, file, name):
    with open(file, "rb") as content:
        parts = {"file": (name, content, "text/plain")}
        answer = requests.post(f"http://{server}/api/uploads", files=parts, timeout=60)
    return "stored" if answer.status_code == 201 else f"{answer.status_code} {answer.text}"


def main():
    server, client, *files = sys.argv[1:]
    send = {"tuspy": with_tuspy, "requests": with_requests}[client]
    names = ((file, os.path.basename(file)) for file in files)
    print(json.dumps({name: send(server, file, name) for file, name in names}))


main()
