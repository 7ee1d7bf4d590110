"""Writes an ONNX file of the size and shape of a gradient-boosting classifier: what `ondol-bench gateway` scores with.

    python benches/peers/boosting.py FEATURES OUT        (needs onnx)

The trees are random (100 of depth 6): only the cost of running them matters here.
"""

import random
import sys

from onnx import TensorProto, helper

TREES, DEPTH = 100, 6


def main(features, out):
    numbers = random.Random(7)
    nodes = {name: [] for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")}
    leaves = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    inner = 2**DEPTH - 1
    for tree in range(TREES):
        for node in range(2 * inner + 1):
            leaf = node >= inner
            nodes["treeids"].append(tree)
            nodes["nodeids"].append(node)
            nodes["featureids"].append(0 if leaf else numbers.randrange(features))
            nodes["values"].append(0.0 if leaf else numbers.uniform(0, 500))
            nodes["modes"].append("LEAF" if leaf else "BRANCH_LEQ")
            nodes["truenodeids"].append(0 if leaf else 2 * node + 1)
            nodes["falsenodeids"].append(0 if leaf else 2 * node + 2)
            if leaf:
                leaves["treeids"].append(tree)
                leaves["nodeids"].append(node)
                leaves["ids"].append(0)
                leaves["weights"].append(numbers.gauss(0, 0.1))
    trees = helper.make_node(
        "TreeEnsembleClassifier",
        ["vector"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        classlabels_int64s=[0, 1],
        post_transform="LOGISTIC",
        **{f"nodes_{name}": values for name, values in nodes.items()},
        **{f"class_{name}": values for name, values in leaves.items()},
    )
    graph = helper.make_graph(
        [trees],
        "boosting",
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [None, features])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="ondol-bench")
    with open(out, "wb") as file:
        file.write(model.SerializeToString())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
