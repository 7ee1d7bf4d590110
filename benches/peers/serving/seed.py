"""Puts the features of every entity where the peers look: in Redis, by Feast and packed by hand.

    python seed.py          (the environment as scoring.py tells)

SHAPES is a list of {"name", "entities", "views": [{"name", "entity", "features", "rows": {key: [value or null]}}]}.
"""

import datetime
import os
import pathlib

import pandas
import redis
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float32
from scoring import as_vector, shapes

CONFIG = """project: serving
provider: local
registry: {repo}/registry.db
online_store:
  type: redis
  connection_string: "{redis}"
offline_store:
  type: file
entity_key_serialization_version: 3
"""


def view_name(shape, view):
    return f"{shape['name']}_{view['name']}"


def frame(view):
    now = datetime.datetime.now(datetime.timezone.utc)
    rows = pandas.DataFrame.from_dict(view["rows"], orient="index", columns=view["features"], dtype="float32")
    rows.insert(0, view["entity"], rows.index.astype(str))
    rows["event_timestamp"] = now
    return rows.reset_index(drop=True)


def seed_feast(repo):
    (repo / "feature_store.yaml").write_text(CONFIG.format(repo=repo, redis=os.environ["REDIS"]))
    store = FeatureStore(repo_path=str(repo))
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
        for name in sorted({name for shape in shapes() for name in shape["entities"]})
    }
    objects, frames = list(entities.values()), {}
    for shape in shapes():
        views = []
        for view in shape["views"]:
            name = view_name(shape, view)
            frames[name] = frame(view)
            path = repo / f"{name}.parquet"
            frames[name].to_parquet(path)
            views.append(
                FeatureView(
                    name=name,
                    entities=[entities[view["entity"]]],
                    schema=[Field(name=feature, dtype=Float32) for feature in view["features"]],
                    source=FileSource(name=f"{name}_file", path=str(path), timestamp_field="event_timestamp"),
                    ttl=datetime.timedelta(days=30),
                    online=True,
                )
            )
        objects += [*views, FeatureService(name=shape["name"], features=views)]
    store.apply(objects)
    for name, rows in frames.items():
        store.write_to_online_store(name, rows)


def seed_packed():
    host, port = os.environ["REDIS"].split(":")
    client = redis.Redis(host=host, port=int(port))
    for shape in shapes():
        for entity in shape["entities"]:
            views = [view for view in shape["views"] if view["entity"] == entity]
            pipeline = client.pipeline(transaction=False)
            for key in views[0]["rows"]:
                values = [value for view in views for value in view["rows"][key]]
                pipeline.set(f"packed:{shape['name']}:{entity}:{key}", as_vector(values).tobytes())
            pipeline.execute()


if __name__ == "__main__":
    seed_feast(pathlib.Path(os.environ["REPO"]))
    seed_packed()
