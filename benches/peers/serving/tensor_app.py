"""A model behind FastAPI by hand: a vector as JSON in, the model's outputs as JSON out."""

from fastapi import FastAPI
from pydantic import BaseModel
from scoring import as_vector, open_session

app = FastAPI()
session = open_session()


class Row(BaseModel):
    vector: list[float]


@app.post("/predict")
async def predict(row: Row):
    label, probabilities = session.run(None, {"vector": as_vector(row.vector).reshape(1, -1)})
    return {"label": label.tolist(), "probabilities": probabilities.tolist()}
