"""The client's side of tests/tritonclient_rest.rs: python tritonclient_rest.py HOST:PORT SCENE"""

import http.client
import json
import math
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

ADDRESS, SCENE = sys.argv[1:]
CLIENT = triton.InferenceServerClient(ADDRESS)


def tensor(name, values, datatype, shape=None):
    values = np.array(values)
    sent = triton.InferInput(name, list(shape or values.shape), datatype)
    sent.set_data_from_numpy(values.reshape(shape or values.shape), binary_data=False)
    return sent


def keys(cards, merchants, amounts):
    return [
        tensor("card_id", np.array(cards, dtype=object), "BYTES"),
        tensor("merchant_id", np.array(merchants, dtype=object), "BYTES", [len(merchants), 1]),
        tensor("amount", np.array(amounts, dtype=np.float64), "FP64"),
    ]


def sigmoid(total):
    return 1 / (1 + math.exp(-total))


def refused(status, words, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        assert words in error.message(), error.message()
        assert error.status() == str(status), (error.status(), error.message())
    else:
        raise AssertionError(f"expected {status}: {words}")


def by_key():
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=False)]
    result = CLIENT.infer("fraud", keys(["c1", "c9"], ["m1", "m9"], [8, 8]), outputs=wanted, request_id="mine")
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["model_version"] == "1"
    assert len(result.get_response()["parameters"]["request_ids"].split(",")) == 2
    probabilities = result.as_numpy("probabilities")
    assert probabilities.dtype == np.float32 and probabilities.shape == (2, 2)
    np.testing.assert_allclose(probabilities[:, 1], [sigmoid(4.25), sigmoid(8)], rtol=1e-6)
    # Without named outputs the client asks for binary ones: it gets them all, in JSON.
    result = CLIENT.infer("fraud", keys(["c1"], ["m1"], [-20]), model_version="1", timeout=5_000_000)
    assert result.as_numpy("label").tolist() == [0]


def raw():
    rows = np.array([[1, 2, 3, 4, 5], [0, 0, 0, 0, -1]], dtype=np.float32)
    result = CLIENT.infer("fraud", [tensor("X", rows, "FP32")])
    np.testing.assert_allclose(result.as_numpy("probabilities")[:, 1], [sigmoid(15), sigmoid(-1)], rtol=1e-6)
    assert result.as_numpy("label").tolist() == [1, 0]
    assert "parameters" not in result.get_response()


def metadata():
    assert CLIENT.is_server_live() and CLIENT.is_server_ready()
    assert CLIENT.is_model_ready("fraud") and CLIENT.is_model_ready("fraud", "1")
    assert not CLIENT.is_model_ready("fraud", "9") and not CLIENT.is_model_ready("frod")
    assert CLIENT.get_server_metadata()["name"] == "ondol"
    model = CLIENT.get_model_metadata("fraud", "1")
    assert model["versions"] == ["1"]
    inputs = {entry["name"]: (entry["datatype"], entry["shape"]) for entry in model["inputs"]}
    assert inputs == {"card_id": ("BYTES", [-1]), "merchant_id": ("BYTES", [-1]), "amount": ("FP64", [-1])}
    assert [entry["name"] for entry in model["outputs"]] == ["label", "probabilities"]
    assert model["parameters"]["raw_inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 5]}]
    index = CLIENT.get_model_repository_index()
    assert index == [{"name": "fraud", "version": "1", "state": "READY", "reason": ""}], index


def errors():
    refused(404, "did you mean `fraud`?", CLIENT.infer, "frod", keys(["c1"], ["m1"], [8]))
    refused(404, "fraud@9", CLIENT.infer, "fraud", keys(["c1"], ["m1"], [8]), model_version="9")
    refused(400, "input `amount` (f64) is missing", CLIENT.infer, "fraud", keys(["c1"], ["m1"], [8])[:2])
    refused(400, "unknown input `card`", CLIENT.infer, "fraud", [tensor("card", np.array(["c"], dtype=object), "BYTES")])
    refused(400, "send either", CLIENT.infer, "fraud", [*keys(["c"], ["m"], [1]), tensor("X", np.zeros((1, 5), np.float32), "FP32")])
    refused(400, "expected FP32", CLIENT.infer, "fraud", [tensor("X", np.zeros((1, 5)), "FP64")])
    refused(400, "expected [-1, 5]", CLIENT.infer, "fraud", [tensor("X", np.zeros((1, 4), np.float32), "FP32")])
    refused(400, "unknown output `probability`", CLIENT.infer, "fraud", keys(["c1"], ["m1"], [8]),
            outputs=[triton.InferRequestedOutput("probability", binary_data=False)])
    binary = triton.InferInput("X", [1, 5], "FP32")
    binary.set_data_from_numpy(np.zeros((1, 5), np.float32))
    refused(400, "set binary_data=False", CLIENT.infer, "fraud", [binary])
    refused(415, "send the request uncompressed", CLIENT.infer, "fraud", keys(["c1"], ["m1"], [8]),
            request_compression_algorithm="gzip")
    refused(501, "not supported", CLIENT.get_inference_statistics, "fraud")
    plain = http.client.HTTPConnection(ADDRESS)
    plain.request("POST", "/v2/models/fraud/infer", body=b'{"inputs": [{]}')
    answer = plain.getresponse()
    assert answer.status == 400 and answer.getheader("content-type") == "application/json"
    assert list(json.loads(answer.read())) == ["error"]


{"by_key": by_key, "raw": raw, "metadata": metadata, "errors": errors}[SCENE]()
