"""The client's side of tests/kserve.rs: python kserve_scenes.py HOST:PORT FOLDER"""

import asyncio
import json
import sys
from pathlib import Path

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

ADDRESS, FOLDER = sys.argv[1:]
FOLDER = Path(FOLDER)
URL = f"http://{ADDRESS}"
ROWS = np.fromfile(FOLDER / "rows.f32", np.float32).reshape(-1, 5)
ROWS = ROWS[np.isfinite(ROWS).all(axis=1)]
EXPECTED = np.fromfile(FOLDER / "finite_probabilities.f32", np.float32).reshape(-1, 2)
BY_KEY = json.loads((FOLDER / "by_key.json").read_text())


def raw(binary):
    tensor = InferInput("X", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return InferRequest("fraud", [tensor], request_id="mine")


def keys(binary):
    values = [
        ("card_id", "BYTES", np.array(["c1", "c9"], dtype=object)),
        ("merchant_id", "BYTES", np.array(["m1", "m9"], dtype=object)),
        ("amount", "FP64", np.array([8.0, 8.0])),
    ]
    tensors = []
    for name, datatype, column in values:
        tensor = InferInput(name, [2], datatype)
        tensor.set_data_from_numpy(column, binary_data=binary)
        tensors.append(tensor)
    return InferRequest("fraud", tensors)


def check(response, expected, column=slice(None)):
    found = {output.name: output.as_numpy() for output in response.outputs}["probabilities"]
    found = np.asarray(found, dtype=np.float32).reshape(-1, 2)[:, column]
    assert found.tobytes() == np.asarray(expected, dtype=np.float32).tobytes(), "not the run in process"


async def rest():
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=1))
    assert await client.is_server_live(URL) and await client.is_server_ready(URL)
    assert await client.is_model_ready(URL, "fraud") and not await client.is_model_ready(URL, "frod")
    for binary in (False, True):
        response = await client.infer(URL, raw(binary), model_name="fraud")
        assert response.id == "mine"
        check(response, EXPECTED)
        check(await client.infer(URL, keys(binary), model_name="fraud"), BY_KEY, 1)
    try:
        await client.infer(URL, raw(False), model_name="frod")
    except Exception as error:
        assert "did you mean `fraud`?" in str(error), error
    else:
        raise AssertionError("an unknown model was found")
    await client.close()


async def rpc():
    client = InferenceGRPCClient(ADDRESS)
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready("fraud")
    for binary in (False, True):
        check(await client.infer(raw(binary)), EXPECTED)
        check(await client.infer(keys(binary)), BY_KEY, 1)
    await client.close()


def repository():
    # KServe's messages carry the model's name in their first field.
    stub = services.GRPCInferenceServiceStub(grpc.insecure_channel(ADDRESS))
    unloaded = stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name="fraud"))
    assert unloaded.model_name == "fraud" and unloaded.isUnloaded
    assert not stub.ModelReady(messages.ModelReadyRequest(name="fraud")).ready
    loaded = stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="fraud"))
    assert loaded.model_name == "fraud" and loaded.isLoaded
    assert stub.ModelReady(messages.ModelReadyRequest(name="fraud")).ready


asyncio.run(rest())
print("rest", flush=True)
asyncio.run(rpc())
print("rpc", flush=True)
repository()
