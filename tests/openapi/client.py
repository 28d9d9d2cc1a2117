"""Makes a client from the OpenAPI document of a server with openapi-python-client, and reads answers of the server with it.

Usage: client.py ADDRESS FOLDER

Checks that the generator leaves nothing out, and that the client gives back every member of every answer that it reads.
"""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import urllib.request
from datetime import datetime

PACKAGE = "headroom_client"

# Longest time of the generator and of one request, in seconds.
GENERATE_WITHIN = 60
REQUEST_WITHIN = 20


def main():
    address, folder = sys.argv[1:]
    url = f"http://{address}"
    generate(url, folder)
    sys.path.insert(0, folder + "/out")
    answers = ask_all(importlib.import_module(PACKAGE).Client(url, timeout=REQUEST_WITHIN))
    models = importlib.import_module(PACKAGE + ".models")

    metrics = answers["get_performance_metrics"]
    expect(metrics.process, models.ProcessSection)
    expect(metrics.http, models.HttpStatus)
    expect(metrics.pools.pools[0], models.PoolLinePoolFigures)
    expect(answers["get_status"].pools[0], models.StatusPoolAnswered)
    expect(answers["get_performance_connections_stats"].pools[0], models.StatsOfPoolAnswered)
    expect(answers["get_performance_connections_health"].pools[0], models.HealthOfPoolAnswered)


def generate(url, folder):
    """A warning names what is left out, and is an error here."""
    document, settings = folder + "/openapi.json", folder + "/settings.json"
    with urllib.request.urlopen(url + "/openapi.json", timeout=REQUEST_WITHIN) as answer, open(document, "wb") as file:
        file.write(answer.read())
    with open(settings, "w", encoding="utf-8") as file:
        # The hooks only format the code. The generator does not know the media type
        # that tus has for plain bytes, nor that of a file with a media type of its own.
        overrides = dict.fromkeys(["application/offset+octet-stream", "*/*"], "application/octet-stream")
        json.dump({"post_hooks": [], "package_name_override": PACKAGE, "content_type_overrides": overrides}, file)
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"]
    command += ["--path", document, "--config", settings, "--output-path", folder + "/out"]
    ended = subprocess.run(command, timeout=GENERATE_WITHIN, capture_output=True, text=True)
    if ended.returncode or "WARNING" in ended.stdout + ended.stderr:
        sys.exit(f"openapi-python-client leaves something out:\n{ended.stdout}{ended.stderr}")


def ask_all(client):
    """Calls every GET route without parameters in its path whose answer ends, and returns what has JSON by operation."""
    api = importlib.import_module(PACKAGE + ".api")
    answers = {}
    for module in pkgutil.walk_packages(api.__path__, api.__name__ + "."):
        tag, _, operation = module.name.removeprefix(api.__name__ + ".").partition(".")
        # The admin listener has another address.
        if tag == "admin" or not operation.startswith("get_") or operation.endswith("_events"):
            continue
        call = importlib.import_module(module.name).sync_detailed
        parameters = inspect.signature(call).parameters.values()
        if any(it.name != "client" and it.default is it.empty for it in parameters):
            continue
        response = call(client=client)
        # The document itself has no schema.
        if response.headers["content-type"] != "application/json" or operation == "get_openapi_json":
            continue
        if response.status_code != 200 or response.parsed is None:
            sys.exit(f"{operation}: no answer that the client can read: {response.content}")
        read, sent = plain(response.parsed.to_dict()), plain(json.loads(response.content))
        if read != sent:
            sys.exit(f"{operation}: the client reads {read}, the server sent {sent}")
        answers[operation] = response.parsed
    return answers


def plain(value):
    """A value with points in time instead of the texts for them, since there are several for each."""
    match value:
        case dict():
            return {name: plain(member) for name, member in value.items()}
        case list():
            return [plain(item) for item in value]
        case str() if "T" in value and value[:1].isdigit():
            try:
                return datetime.fromisoformat(value)
            except ValueError:
                return value
    return value


def expect(value, model):
    if not isinstance(value, model):
        sys.exit(f"expected {model.__name__}, found {value}")


if __name__ == "__main__":
    main()
