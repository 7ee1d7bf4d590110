"""The model as a model of Triton's Python backend."""

import os
import pathlib
import sys

sys.path.append(os.environ["ONDOL_SCORED"])

import triton_python_backend_utils as backend  # noqa: E402
from scored import Scored, ToldToFail  # noqa: E402


class TritonPythonModel:
    def initialize(self, args):
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        self.scored = Scored(folder / "model.onnx")

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            label, probabilities = self.scored(backend.get_input_tensor_by_name(request, "X").as_numpy())
        except ToldToFail as error:
            return backend.InferenceResponse([], error=backend.TritonError(str(error)))
        tensors = [backend.Tensor("label", label), backend.Tensor("probabilities", probabilities)]
        return backend.InferenceResponse(tensors)
