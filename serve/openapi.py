"""The OpenAPI document: FastAPI's, with what it cannot see, GeoJSON answers and problem documents, added."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serve.problems import PROBLEM_SCHEMA
from serve.schemas import FeatureCollection


def document(app: FastAPI) -> dict[str, Any]:
    """The document of `app`, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = made["components"]["schemas"]
        collection = FeatureCollection.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(collection.pop("$defs"))
        schemas["FeatureCollection"] = collection
        schemas["Problem"] = PROBLEM_SCHEMA
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in made["paths"].items():
            if path.startswith("/v1/"):
                for operation in operations.values():
                    operation["security"] = [{"key": []}, {}]  # a key where keys are configured
        app.openapi_schema = made
    return app.openapi_schema
