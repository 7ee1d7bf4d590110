"""The model in MLServer: its documented way for a runtime of one's own."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from scoring import open_session


class Boosting(MLModel):
    async def load(self) -> bool:
        self._session = open_session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        vector = NumpyCodec.decode_input(payload.inputs[0])
        label, probabilities = self._session.run(None, {"vector": vector})
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("label", label),
                NumpyCodec.encode_output("probabilities", probabilities),
            ],
        )
