"""MLflow's scoring server: mlflow_server.py ARTIFACT HTTP_PORT COLUMNS, in a folder of its own.

COLUMNS are the names of the model's signature, or empty for a model without one.
"""

import json
import sys

import mlflow.pyfunc
import uvicorn
from mlflow.models import ModelSignature
from mlflow.pyfunc.scoring_server import init
from mlflow.types import ColSpec, DataType, Schema

artifact, http, columns = sys.argv[1:]
signature = None
if columns:
    inputs = [ColSpec(DataType.double, name) for name in json.loads(columns)]
    signature = ModelSignature(inputs=Schema(inputs))
mlflow.pyfunc.save_model(
    "model", loader_module="mlflow_loader", data_path=artifact, signature=signature, pip_requirements=[]
)
uvicorn.run(init(mlflow.pyfunc.load_model("model")), host="127.0.0.1", port=int(http))
