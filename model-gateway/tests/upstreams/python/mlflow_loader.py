"""The model as a flavour of MLflow's own: what `loader_module` of a pyfunc model names."""

from scored import Scored


class Probability:
    def __init__(self, path):
        self.scored = Scored(path)

    def predict(self, rows):
        """Of a table or a matrix, the probability of class 1."""
        return self.scored(rows)[1][:, 1]


def _load_pyfunc(path):
    return Probability(path)
