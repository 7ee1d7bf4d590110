"""Builds the demo's model and merchants. The files are committed; run this to change them.

    python examples/demo/make_model.py          (needs onnx, numpy, pyarrow)

fraud.onnx is a logistic regression written by hand, so that the demo needs no training and anybody can read why it
says what it says. It shows what `ondol model register` wants of a file:

* one float input [N, F], a column per entry of the model's `features`, in order;
* the property `ondol.features`: the names of those columns, which registration compares with the definition;
* missing values arrive as NaN, so the graph (or the trees) must know what to do with them;
* an output whose name contains `prob`, shape [N, 2]: the prediction is the probability of class 1.
"""

import json
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, checker, helper

HERE = Path(__file__).parent

# name: (weight, value when missing). Amounts enter as log(1 + x).
FEATURES = {
    "card.n_1h": (0.9, 0.0),
    "card.spend_24h": (0.15, 0.0),
    "card.mean_24h": (-0.1, 0.0),
    "card.declined_7d": (1.1, 0.0),
    "card.last_amount": (-0.05, 0.0),
    "merchant.risk": (3.5, 0.2),
    "amount": (0.25, 0.0),
    "derived.ratio": (0.9, 1.0),
    "derived.abroad": (0.8, 0.0),
}
BIAS = -6.0


def model():
    names = list(FEATURES)
    width = len(names)
    floats = TensorProto.FLOAT

    def constant(name, shape, values, kind=floats):
        return helper.make_tensor(name, kind, shape, values)

    constants = [
        constant("missing", [1, width], [FEATURES[name][1] for name in names]),
        constant("weights", [width, 1], [FEATURES[name][0] for name in names]),
        constant("bias", [1], [BIAS]),
        constant("zero", [], [0.0]),
        constant("one", [], [1.0]),
    ]
    nodes = [
        helper.make_node("IsNaN", ["vector"], ["is_missing"]),
        helper.make_node("Where", ["is_missing", "missing", "vector"], ["filled"]),
        helper.make_node("Max", ["filled", "zero"], ["positive"]),
        helper.make_node("Add", ["positive", "one"], ["shifted"]),
        helper.make_node("Log", ["shifted"], ["logs"]),
        helper.make_node("Gemm", ["logs", "weights", "bias"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["fraud"]),
        helper.make_node("Sub", ["one", "fraud"], ["honest"]),
        helper.make_node("Concat", ["honest", "fraud"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "fraud",
        [helper.make_tensor_value_info("vector", floats, [None, width])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", floats, [None, 2]),
        ],
        constants,
    )
    onnx_model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="ondol-demo"
    )
    helper.set_model_props(onnx_model, {"ondol.features": json.dumps(names)})
    checker.check_model(onnx_model)
    return onnx_model


def merchants():
    """Twenty merchants m0 … m19: every fourth is abroad, and risk rises with the number."""
    countries = ["KR", "KR", "KR", "US", "KR", "KR", "KR", "VN"]
    updated_at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return pa.table(
        {
            "merchant_id": [f"m{number}" for number in range(20)],
            "country": [countries[number % len(countries)] for number in range(20)],
            "risk": [round(0.02 + 0.04 * number, 2) for number in range(20)],
            "updated_at": pa.array([updated_at] * 20, pa.timestamp("us", tz="UTC")),
        }
    )


if __name__ == "__main__":
    (HERE / "fraud.onnx").write_bytes(model().SerializeToString())
    pq.write_table(merchants(), HERE / "merchants.parquet", compression="zstd")
