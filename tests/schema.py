"""Validates documents against the schemas in configs/, with Debian's python3-jsonschema.

Reads a JSON list of [schema file, YAML text] from standard input, and writes a JSON list with the first error of each, or null.
"""

import json
import re
import sys

import jsonschema
import yaml


class Loader(yaml.SafeLoader):
    """YAML 1.2, as the daemon reads it: PyYAML's own is 1.1, where `0660` is a number and `yes` a truth value."""


Loader.yaml_implicit_resolvers = {}
for tag, pattern, first in [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
]:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)


def main():
    validators = {}
    results = []
    for schema, text in json.load(sys.stdin):
        if schema not in validators:
            with open(schema, encoding="utf-8") as file:
                loaded = yaml.load(file, Loader)
            jsonschema.Draft202012Validator.check_schema(loaded)
            validators[schema] = jsonschema.Draft202012Validator(loaded)
        try:
            document = yaml.load(text, Loader)
            error = next(validators[schema].iter_errors(document), None)
            results.append(error and f"{error.json_path}: {error.message}"[:300])
        except yaml.YAMLError as error:
            results.append(f"YAML: {error}")
    json.dump(results, sys.stdout)


main()
