"""The service: HTTP in, hits out. `serve run serve.app:build gallery=URI` starts it on Ray Serve.

Modules by the way of a request: keys and limits let it in, media reads its bytes, deployments encode and search it,
schemas give it its words on the wire, problems its errors; watch takes up what is newly published.
"""
