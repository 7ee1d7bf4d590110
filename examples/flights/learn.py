"""Trains a gradient-boosting classifier on a training set and exports it as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

# What a caller knows without a feature store.
REQUEST_ONLY = ["distance", "derived.hour", "derived.weekday", "derived.is_ewr", "derived.is_jfk"]


def matrix(table: pd.DataFrame, names: list[str]) -> np.ndarray:
    """The feature vector as a model sees it: single precision, null as NaN."""
    return table[names].astype("float64").to_numpy(dtype=np.float32)


def fit(table: pd.DataFrame, names: list[str]) -> HistGradientBoostingClassifier:
    """A gradient-boosting classifier of lateness."""
    model = HistGradientBoostingClassifier(max_iter=200, learning_rate=0.08, max_leaf_nodes=31, random_state=7)
    return model.fit(matrix(table, names), table["late"])


def auc(model: HistGradientBoostingClassifier, table: pd.DataFrame, names: list[str]) -> float:
    """Area under the ROC curve."""
    return roc_auc_score(table["late"], model.predict_proba(matrix(table, names))[:, 1])


def export(model: HistGradientBoostingClassifier, names: list[str], path: Path) -> None:
    """Writes the model as ONNX, its feature names in the metadata so that registration checks them."""
    onnx_model = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, len(names)]))],
        options={"zipmap": False},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    entry = onnx_model.metadata_props.add()
    entry.key = "ondol.features"
    entry.value = "[" + ",".join(f'"{name}"' for name in names) + "]"
    path.write_bytes(onnx_model.SerializeToString())


def same_scores(model: HistGradientBoostingClassifier, path: Path, table: pd.DataFrame, names: list[str]) -> float:
    """The largest difference between the exported model's scores and the original's."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = matrix(table.head(10_000), names)
    outputs = {output.name: value for output, value in zip(session.get_outputs(), session.run(None, {"features": rows}))}
    return float(np.abs(outputs["probabilities"][:, 1] - model.predict_proba(rows)[:, 1]).max())
