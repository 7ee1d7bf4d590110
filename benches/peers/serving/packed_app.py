"""Predict by key with FastAPI and one packed value in Redis for each entity: the least that a careful team writes by hand.
A route for each shape of request."""

import os

import numpy
import redis.asyncio
from fastapi import FastAPI
from pydantic import create_model
from scoring import open_session, probability, shapes

app = FastAPI()
session = open_session()
client = redis.asyncio.Redis.from_url(f"redis://{os.environ['REDIS']}")


def serve(shape):
    name, entities = shape["name"], shape["entities"]
    Keys = create_model("Keys", **{entity: (str, ...) for entity in entities})

    async def predict(keys: Keys):
        rows = await client.mget([f"packed:{name}:{entity}:{getattr(keys, entity)}" for entity in entities])
        return {"prediction": probability(session, numpy.frombuffer(b"".join(rows), "<f4"))}

    app.post(f"/{name}")(predict)


for each in shapes():
    serve(each)
