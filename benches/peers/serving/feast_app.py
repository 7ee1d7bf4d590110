"""Predict by key with FastAPI and Feast's SDK: what a team writes that has Feast. A route for each shape of request.

The lookup is called from the event loop: a hop to a thread would only add to the CPU that a request takes.
"""

import os

from fastapi import FastAPI
from feast import FeatureStore
from pydantic import create_model
from scoring import as_vector, open_session, probability, shapes

app = FastAPI()
session = open_session()
store = FeatureStore(repo_path=os.environ["REPO"])


def serve(shape):
    service = store.get_feature_service(shape["name"])
    names = [f"{shape['name']}_{view['name']}__{feature}" for view in shape["views"] for feature in view["features"]]
    Keys = create_model("Keys", **{entity: (str, ...) for entity in shape["entities"]})

    async def predict(keys: Keys):
        answer = store.get_online_features(service, [keys.model_dump()], full_feature_names=True).to_dict()
        return {"prediction": probability(session, as_vector([answer[name][0] for name in names]))}

    app.post(f"/{shape['name']}")(predict)


for each in shapes():
    serve(each)
