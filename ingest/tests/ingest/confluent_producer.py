"""Writes what a plan on standard input says, with Confluent's own serializers as they come, and says what happened."""

import json
import sys

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

plan = json.load(sys.stdin)
registry = SchemaRegistryClient({"url": plan["registry"]})


def avro(schema, field):
    from confluent_kafka.schema_registry.avro import AvroSerializer

    return AvroSerializer(registry, json.dumps(schema))


def json_schema(schema, field):
    from confluent_kafka.schema_registry.json_schema import JSONSerializer

    return JSONSerializer(json.dumps(schema), registry)


def protobuf(schema, field):
    from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
    from google.protobuf import timestamp_pb2

    pool = descriptor_pool.DescriptorPool()
    known = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(known)
    pool.Add(known)
    pool.Add(json_format.ParseDict(schema["file"], descriptor_pb2.FileDescriptorProto()))
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema["message"]))
    serializer = ProtobufSerializer(message, registry)
    return lambda value, context: serializer(json_format.ParseDict(value, message()), context)


formats = {"avro": avro, "json": json_schema, "protobuf": protobuf}
try:
    if "compatibility" in plan:
        registry.set_compatibility(subject_name=plan["topic"] + "-value", level=plan["compatibility"])
    make = formats[plan["format"]]
    value = make(plan["schema"], MessageField.VALUE)
    key = make(plan["key_schema"], MessageField.KEY) if "key_schema" in plan else None
    producer = Producer({"bootstrap.servers": plan["bootstrap"], "compression.type": plan.get("compression", "none")})
    for place, event in enumerate(plan["values"]):
        context = SerializationContext(plan["topic"], MessageField.VALUE)
        payload = value(event, context)
        key_context = SerializationContext(plan["topic"], MessageField.KEY)
        key_payload = key(plan["keys"][place], key_context) if key else None
        producer.produce(plan["topic"], value=payload, key=key_payload)
    if producer.flush(30):
        raise SystemExit("not everything was delivered")
    print(json.dumps({"written": len(plan["values"])}))
except SchemaRegistryError as error:
    print(json.dumps({"refused": error.http_status_code, "message": error.error_message}))
