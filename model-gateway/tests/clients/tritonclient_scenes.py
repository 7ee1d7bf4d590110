"""The client's side of tests/tritonclient.rs: python tritonclient_scenes.py http|http.aio|grpc|grpc.aio HOST:PORT FOLDER

One flavour of the client a process. FOLDER holds what the Rust side computed in process, to compare bit by bit.
"""

import asyncio
import http.client
import importlib
import inspect
import json
import queue
import sys
from pathlib import Path

import numpy as np
from tritonclient.utils import InferenceServerException

FLAVOUR, ADDRESS, FOLDER = sys.argv[1:]
FOLDER = Path(FOLDER)
triton = importlib.import_module("tritonclient." + FLAVOUR)
IS_HTTP = FLAVOUR.startswith("http")
LOOP = asyncio.new_event_loop()
ROWS = np.fromfile(FOLDER / "rows.f32", np.float32).reshape(-1, 5)
LABELS = np.fromfile(FOLDER / "labels.i64", np.int64)
PROBABILITIES = np.fromfile(FOLDER / "probabilities.f32", np.float32).reshape(-1, 2)
BY_KEY = json.loads((FOLDER / "by_key.json").read_text())


async def awaited(made):
    return await made


def settled(value):
    return LOOP.run_until_complete(awaited(value)) if inspect.isawaitable(value) else value


async def connect():
    return triton.InferenceServerClient(ADDRESS)


CLIENT = LOOP.run_until_complete(connect())


def call(method, *arguments, **named):
    async def run():
        result = getattr(CLIENT, method)(*arguments, **named)
        return await result if inspect.isawaitable(result) else result

    if FLAVOUR.endswith("aio"):
        return LOOP.run_until_complete(run())
    return getattr(CLIENT, method)(*arguments, **named)


def told(method, *arguments):
    """An answer as JSON, whichever protocol brought it."""
    return call(method, *arguments) if IS_HTTP else call(method, *arguments, as_json=True)


def tensor(name, values, datatype, shape=None, binary=True):
    values = np.array(values).reshape(shape or np.array(values).shape)
    sent = triton.InferInput(name, list(values.shape), datatype)
    if IS_HTTP:
        sent.set_data_from_numpy(values, binary_data=binary)
    else:
        sent.set_data_from_numpy(values)
    return sent


def wanted(name, binary=True):
    return triton.InferRequestedOutput(name, binary_data=binary) if IS_HTTP else triton.InferRequestedOutput(name)


def keys(cards, merchants, amounts, binary=True):
    return [
        tensor("card_id", np.array(cards, dtype=object), "BYTES", binary=binary),
        tensor("merchant_id", np.array(merchants, dtype=object), "BYTES", [len(merchants), 1], binary=binary),
        tensor("amount", np.array(amounts, dtype=np.float64), "FP64", binary=binary),
    ]


def same_bits(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape, (found.dtype, found.shape)
    assert found.tobytes() == expected.tobytes(), "the answer differs from the run in process"


def refused(http_status, grpc_status, words, method, *arguments, **named):
    expected = str(http_status) if IS_HTTP else "StatusCode." + grpc_status
    try:
        call(method, *arguments, **named)
    except InferenceServerException as error:
        assert words in error.message(), error.message()
        assert error.status() == expected, (error.status(), error.message())
    else:
        raise AssertionError(f"expected {expected}: {words}")


def health_and_metadata():
    assert call("is_server_live") and call("is_server_ready")
    assert call("is_model_ready", "fraud") and call("is_model_ready", "fraud", "1")
    server = told("get_server_metadata")
    assert server["name"] == "ondol" and "binary_tensor_data" in server["extensions"]
    model = told("get_model_metadata", "fraud", "1")
    assert model["versions"] == ["1"] and model["platform"] == "onnx_onnxv1"
    inputs = {entry["name"]: (entry["datatype"], [int(size) for size in entry["shape"]]) for entry in model["inputs"]}
    assert inputs == {"card_id": ("BYTES", [-1]), "merchant_id": ("BYTES", [-1]), "amount": ("FP64", [-1])}, inputs
    assert [entry["name"] for entry in model["outputs"]] == ["label", "probabilities"]
    if IS_HTTP:
        assert model["parameters"]["raw_inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 5]}]
    config = told("get_model_config", "fraud")
    config = config if IS_HTTP else config["config"]
    assert config["name"] == "fraud" and config["backend"] == "onnx"
    assert [entry["data_type"] for entry in config["input"]] == ["TYPE_STRING", "TYPE_STRING", "TYPE_FP64"]
    assert json.loads(config["parameters"]["raw_inputs"]["string_value"])[0]["name"] == "X"


def index():
    found = told("get_model_repository_index")
    entries = found if IS_HTTP else found["models"]
    return [(entry["name"], entry["version"], entry["state"]) for entry in entries]


def by_key():
    inputs = keys(["c1", "c9"], ["m1", "m9"], [8, 8])
    result = call("infer", "fraud", inputs, outputs=[wanted("probabilities")], request_id="mine")
    answer = result.get_response() if IS_HTTP else result.get_response(as_json=True)
    assert answer["id"] == "mine" and answer["model_version"] == "1"
    ids = answer["parameters"]["request_ids"]
    assert len((ids if IS_HTTP else ids["string_param"]).split(",")) == 2
    probabilities = result.as_numpy("probabilities")
    same_bits(probabilities[:, 1], np.array(BY_KEY, dtype=np.float32))
    assert result.as_numpy("label") is None
    # Without named outputs there are all.
    result = call("infer", "fraud", keys(["c1"], ["m1"], [-20]), model_version="1", timeout=5_000_000)
    assert result.as_numpy("label").tolist() == [0] and result.as_numpy("probabilities").shape == (1, 2)


def json_both_ways():
    inputs = keys(["c1", "c9"], ["m1", "m9"], [8, 8], binary=False)
    result = call("infer", "fraud", inputs, outputs=[wanted("probabilities", binary=False)])
    same_bits(result.as_numpy("probabilities")[:, 1], np.array(BY_KEY, dtype=np.float32))
    # JSON has no NaN to send.
    finite = np.isfinite(ROWS).all(axis=1)
    for binary in (False, True):
        sent = [tensor("X", ROWS[finite], "FP32", binary=False)]
        result = call("infer", "fraud", sent, outputs=[wanted("probabilities", binary), wanted("label", not binary)])
        same_bits(result.as_numpy("probabilities"), PROBABILITIES[finite])
        same_bits(result.as_numpy("label"), LABELS[finite])


def raw(**named):
    result = call("infer", "fraud", [tensor("X", ROWS, "FP32")], **named)
    same_bits(result.as_numpy("probabilities"), PROBABILITIES)
    same_bits(result.as_numpy("label"), LABELS)
    return result


def half_precision():
    rows = np.array([[1, 0.5, -2, 4, 8]], dtype=np.float16)
    result = call("infer", "fraud", [tensor("X", rows, "FP16")])
    exact = call("infer", "fraud", [tensor("X", rows.astype(np.float32), "FP32")])
    same_bits(result.as_numpy("probabilities"), exact.as_numpy("probabilities"))


def compressed():
    if not IS_HTTP:
        raw(compression_algorithm="gzip")
        return
    for algorithm in ("gzip", "deflate"):
        raw(request_compression_algorithm=algorithm)
        result = raw(response_compression_algorithm=algorithm)
        assert "probabilities" in str(result.get_response())
        raw(request_compression_algorithm=algorithm, response_compression_algorithm=algorithm)


def beyond_four_megabytes():
    many = np.tile(ROWS, (1 + 230_000 // len(ROWS), 1))
    result = call("infer", "fraud", [tensor("X", many, "FP32")])
    assert many.nbytes > 4 << 20 and len(result.as_numpy("label")) == len(many)
    same_bits(result.as_numpy("probabilities")[-len(ROWS):], PROBABILITIES)


def statistics():
    def read(*names):
        found = told("get_inference_statistics", *names)["model_stats"][0]
        assert (found["name"], found["version"]) == ("fraud", "1")
        return int(found["inference_count"]), int(found["inference_stats"]["success"]["count"]), found

    rows, requests, _ = read("fraud")
    call("infer", "fraud", [tensor("X", ROWS, "FP32")])
    call("infer", "fraud", keys(["c1", "c2"], ["m1", "m1"], [1, 2]))
    now_rows, now_requests, found = read()
    assert (now_rows - rows, now_requests - requests) == (len(ROWS) + 2, 2)
    assert int(found["inference_stats"]["compute_infer"]["ns"]) > 0 and int(found["last_inference"]) > 0


def unloaded_and_loaded_again():
    assert index() == [("fraud", "1", "READY")]
    call("unload_model", "fraud")
    assert index() == [("fraud", "1", "UNAVAILABLE")]
    assert not call("is_model_ready", "fraud")
    refused(503, "UNAVAILABLE", "was unloaded", "infer", "fraud", keys(["c1"], ["m1"], [8]))
    call("load_model", "fraud")
    assert index() == [("fraud", "1", "READY")] and call("is_model_ready", "fraud")
    raw()
    refused(400, "INVALID_ARGUMENT", "`config` is not supported", "load_model", "fraud", config="{}")
    refused(404, "NOT_FOUND", "did you mean `fraud`?", "unload_model", "frod")


def errors():
    one = keys(["c1"], ["m1"], [8])
    bad, missing = "INVALID_ARGUMENT", "NOT_FOUND"
    refused(404, missing, "did you mean `fraud`?", "infer", "frod", one)
    refused(404, missing, "fraud@9", "infer", "fraud", one, model_version="9")
    refused(400, bad, "input `amount` (f64) is missing", "infer", "fraud", one[:2])
    refused(400, bad, "unknown input `card`", "infer", "fraud", [tensor("card", np.array(["c"], dtype=object), "BYTES")])
    refused(400, bad, "send either", "infer", "fraud", [*one, tensor("X", np.zeros((1, 5), np.float32), "FP32")])
    refused(400, bad, "expected FP32", "infer", "fraud", [tensor("X", np.zeros((1, 5)), "FP64")])
    refused(400, bad, "expected [-1, 5]", "infer", "fraud", [tensor("X", np.zeros((1, 4), np.float32), "FP32")])
    refused(400, bad, "unknown output `probability`", "infer", "fraud", one, outputs=[wanted("probability")])
    shared = triton.InferInput("X", [1, 5], "FP32")
    shared.set_shared_memory("region", 20)
    refused(400, bad, "`shared_memory_region` is not supported", "infer", "fraud", [shared])
    refused(400, bad, "`classification` is not supported", "infer", "fraud", one,
            outputs=[triton.InferRequestedOutput("probabilities", class_count=1)])
    refused(501, "UNIMPLEMENTED", "", "get_trace_settings", "fraud")
    if IS_HTTP:
        assert not call("is_model_ready", "frod") and not call("is_model_ready", "fraud", "9")
        plain_http()
    else:
        refused(404, missing, "unknown model", "is_model_ready", "frod")


def plain_http():
    def post(path, body, headers=None):
        plain = http.client.HTTPConnection(ADDRESS)
        plain.request("POST", path, body=body, headers=headers or {})
        answer = plain.getresponse()
        assert answer.getheader("content-type") == "application/json", answer.getheader("content-type")
        return answer.status, json.loads(answer.read())

    status, answer = post("/v2/models/fraud/infer", b'{"inputs": [{]}')
    assert status == 400 and list(answer) == ["error"]
    assert post("/v2/repository/index", b"")[0] == 200
    assert post("/v2/repository/index", b'{"ready": true}')[1][0]["state"] == "READY"
    status, answer = post("/v2/models/fraud/ready", b"")
    assert status == 405 and list(answer) == ["error"]
    status, answer = post("/v2/models/fraud/infer", b"{}", {"content-encoding": "br"})
    assert status == 415 and "gzip" in answer["error"]


def asynchronously():
    """The client's own ways of asking without waiting."""
    if FLAVOUR == "http":
        pending = [CLIENT.async_infer("fraud", [tensor("X", ROWS, "FP32")]) for _ in range(3)]
        for request in pending:
            same_bits(request.get_result().as_numpy("probabilities"), PROBABILITIES)
    elif FLAVOUR == "grpc":
        arrived = queue.Queue()
        for place in range(3):
            CLIENT.async_infer("fraud", [tensor("X", ROWS, "FP32")], lambda result, error: arrived.put((result, error)))
        for _ in range(3):
            result, error = arrived.get()
            assert error is None, error
            same_bits(result.as_numpy("probabilities"), PROBABILITIES)


def streamed():
    if FLAVOUR == "grpc":
        arrived = queue.Queue()
        CLIENT.start_stream(lambda result, error: arrived.put((result, error)))
        for place, model in enumerate(["fraud", "frod", "fraud"]):
            CLIENT.async_stream_infer(model, [tensor("X", ROWS, "FP32")], request_id=str(place),
                                      enable_empty_final_response=True)
        answers = [arrived.get() for _ in range(3)]
        CLIENT.stop_stream()
    else:
        async def requests():
            for place, model in enumerate(["fraud", "frod", "fraud"]):
                yield {"model_name": model, "inputs": [tensor("X", ROWS, "FP32")], "request_id": str(place),
                       "parameters": {"triton_enable_empty_final_response": True}}

        async def collect():
            return [answer async for answer in CLIENT.stream_infer(requests())]

        answers = LOOP.run_until_complete(collect())
    assert len(answers) == 3
    assert "did you mean `fraud`?" in answers[1][1].message() and answers[1][0] is None
    for place in (0, 2):
        result, error = answers[place]
        assert error is None, error
        response = result.get_response()
        assert response.id == str(place) and response.parameters["triton_final_response"].bool_param
        same_bits(result.as_numpy("probabilities"), PROBABILITIES)


def typed_contents():
    """What tritonclient's messages allow, and its client never sends."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(ADDRESS))
    request = service_pb2.ModelInferRequest(model_name="fraud")
    sent = request.inputs.add(name="X", datatype="FP32", shape=ROWS.shape)
    sent.contents.fp32_contents.extend(ROWS.ravel().tolist())
    response = stub.ModelInfer(request)
    assert [output.name for output in response.outputs] == ["label", "probabilities"]
    assert not any(output.HasField("contents") for output in response.outputs)
    same_bits(np.frombuffer(response.raw_output_contents[1], np.float32).reshape(-1, 2), PROBABILITIES)
    by_key = service_pb2.ModelInferRequest(model_name="fraud")
    for name, text in (("card_id", b"c1"), ("merchant_id", b"m1")):
        by_key.inputs.add(name=name, datatype="BYTES", shape=[1]).contents.bytes_contents.append(text)
    by_key.inputs.add(name="amount", datatype="FP64", shape=[1]).contents.fp64_contents.append(8)
    answer = stub.ModelInfer(by_key)
    same_bits(np.frombuffer(answer.raw_output_contents[1], np.float32)[1:], np.array(BY_KEY[:1], dtype=np.float32))


SCENES = [health_and_metadata, by_key, raw, half_precision, compressed, beyond_four_megabytes, statistics,
          unloaded_and_loaded_again, errors, asynchronously]
SCENES += [json_both_ways] if IS_HTTP else [streamed]
SCENES += [typed_contents] if FLAVOUR == "grpc" else []
for scene in SCENES:
    print(scene.__name__, flush=True)
    scene()
settled(CLIENT.close()) if not FLAVOUR.endswith("aio") else call("close")
