"""The two apps by the names that pyproject.toml gives; assigned, since Flower does not follow an import."""

from fmlab.nodes import node, server

client = node.app
serve = server.app
