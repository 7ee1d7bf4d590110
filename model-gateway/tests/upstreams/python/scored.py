"""The model that each of the servers serves: an ONNX file, by the same ONNX Runtime that the gateway has in process.

An amount of 666 makes it fail, one of 777 makes it hang.
"""

import time

import numpy as np
import onnxruntime

AMOUNT = 3


class ToldToFail(Exception):
    pass


class Scored:
    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, rows):
        """Label and probabilities of each row."""
        rows = np.asarray(rows, dtype=np.float32)
        amounts = rows[:, AMOUNT]
        if (amounts == 666).any():
            raise ToldToFail("an amount of 666 is not scored")
        if (amounts == 777).any():
            time.sleep(600)
        return self.session.run(["label", "probabilities"], {"X": rows})
