"""Python models made from the JSON Schemas that jarvis-api publishes with a release.

`pins` and `download` bring the published files, `shapes` and `transports` clean them, `render`
turns them into code with datamodel-code-generator, `folder` keeps the result. Needs the `schemas`
extra; nothing at run time imports this package.
"""
