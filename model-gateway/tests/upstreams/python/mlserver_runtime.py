"""The model as a custom runtime of MLServer."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse

from scored import Scored, ToldToFail


class Runtime(MLModel):
    async def load(self):
        self.scored = Scored(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        try:
            label, probabilities = self.scored(NumpyCodec.decode_input(payload.inputs[0]))
        except ToldToFail as error:
            raise InferenceError(str(error)) from error
        outputs = [NumpyCodec.encode_output("label", label), NumpyCodec.encode_output("probabilities", probabilities)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
