"""The unmodified tritonclient sends the rows of `fixtures/pipelines/expect.py` as raw tensors, and wants their outputs.

    pipelines_scenes.py ADDRESS EXPECTED_JSON

Over HTTP with tensors in JSON and as bytes, and over gRPC.
"""

import json
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http

ADDRESS, EXPECTED = sys.argv[1:]
TYPES = {"card_n_1h": ("INT64", np.int64), "derived_country": ("BYTES", np.object_)}

expected = json.load(open(EXPECTED))


def column(name, rows):
    return np.array(rows, dtype=TYPES.get(name, ("FP32", np.float32))[1])


def is_complete(row):
    return all(cell is not None for rows in expected["inputs"].values() for cell in rows[row])


def check(flavour, triton, client, binary):
    """All rows at once, and some alone. JSON has no missing value that this client writes."""
    every = [row for row in range(len(next(iter(expected["inputs"].values())))) if binary or is_complete(row)]
    for rows, outputs in [(every, expected["outputs"]), (every[:1], expected["alone"]), (every[-1:], expected["alone"])]:
        sent = []
        for name, cells in expected["inputs"].items():
            values = column(name, [cells[row] for row in rows])
            tensor = triton.InferInput(name, list(values.shape), TYPES.get(name, ("FP32",))[0])
            if triton is tritonclient.http:
                tensor.set_data_from_numpy(values, binary_data=binary)
            else:
                tensor.set_data_from_numpy(values)
            sent.append(tensor)
        wanted = None
        if not binary:
            wanted = [triton.InferRequestedOutput(name, binary_data=False) for name in outputs]
        answer = client.infer("fraud", sent, outputs=wanted)
        for name, cells in outputs.items():
            found = answer.as_numpy(name)
            found = found.reshape(len(rows), -1).tolist()
            found = [[cell.decode() if isinstance(cell, bytes) else cell for cell in row] for row in found]
            assert found == [cells[row] for row in rows], f"{flavour}: `{name}` differs from the run in Python"


http = tritonclient.http.InferenceServerClient(ADDRESS, network_timeout=300, connection_timeout=300)
check("JSON", tritonclient.http, http, binary=False)
check("bytes", tritonclient.http, http, binary=True)
check("gRPC", tritonclient.grpc, tritonclient.grpc.InferenceServerClient(ADDRESS), binary=True)
