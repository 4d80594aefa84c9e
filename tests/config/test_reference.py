import json

import yaml

from nas.config.reference import DOCUMENTATION, JSON_SCHEMA, build_documentation, build_json_schema
from tests.support.paths import REPOSITORY


def test_documentation_is_up_to_date() -> None:
    assert (REPOSITORY / DOCUMENTATION).read_text() == build_documentation(), "run python -m nas.config.reference"


def test_json_schema_is_up_to_date() -> None:
    assert json.loads((REPOSITORY / JSON_SCHEMA).read_text()) == build_json_schema(), (
        "run python -m nas.config.reference"
    )


def test_every_search_file_names_the_schema_and_has_only_its_keys() -> None:
    schema = build_json_schema()
    for path in (REPOSITORY / "search_spaces").glob("*.yaml"):
        text = path.read_text()
        assert text.startswith(f"# yaml-language-server: $schema={JSON_SCHEMA.name}\n")
        assert set(yaml.safe_load(text)) <= set(schema["properties"])
