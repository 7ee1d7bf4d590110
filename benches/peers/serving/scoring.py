"""The model and the shapes of requests, as every Python peer of `ondol-bench serving` uses them.

The environment says where things are: MODEL the ONNX file, SHAPES what `seed.py` was given, REDIS the server's
host:port, REPO Feast's folder.
"""

import json
import os

import numpy
import onnxruntime


def open_session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


def probability(session, vector):
    """Of the second class. `vector` is one float32 row of the model's features."""
    (probabilities,) = session.run(["probabilities"], {"vector": vector.reshape(1, -1)})
    return float(probabilities[0, 1])


def shapes():
    with open(os.environ["SHAPES"]) as file:
        return json.load(file)


def as_vector(values):
    """Null is NaN, as in Ondol."""
    return numpy.array(values, dtype=numpy.float32)
