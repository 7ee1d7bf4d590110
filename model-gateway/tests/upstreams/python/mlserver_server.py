"""MLServer with one model: mlserver_server.py ARTIFACT HTTP_PORT GRPC_PORT, in a folder of its own."""

import json
import pathlib
import sys

from mlserver.cli import main

artifact, http, grpc = sys.argv[1:]
settings = {
    "host": "127.0.0.1",
    "http_port": int(http),
    "grpc_port": int(grpc),
    "metrics_endpoint": None,
    "parallel_workers": 0,
}
model = {
    "name": "fraud",
    "implementation": "mlserver_runtime.Runtime",
    "parameters": {"uri": artifact, "version": "v7"},
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 5]}],
    "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    ],
}
pathlib.Path("settings.json").write_text(json.dumps(settings))
pathlib.Path("model-settings.json").write_text(json.dumps(model))
sys.argv = ["mlserver", "start", "."]
main()
