"""From text to the JSON a field takes: cells of a CSV, and `field=value` on the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longcase.errors import InvalidInput, UsageError
from longcase.model.codec import Json
from longcase.model.names import printable
from longcase.model.strict_json import BODY_BYTES, check_json, parse_json
from longcase.nearest import nearest

if TYPE_CHECKING:
    from longcase.model.workflow import Workflow
    from longcase.service.service import Service


_WANTED = {
    "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list as JSON", "object": "an object as JSON",
}  # fmt: skip

_LIKE = {
    "integer": "=70", "number": "=0.5", "boolean": "=true", "array": """:='["a", "b"]'""", "object": """:='{"a": 1}'""",
}  # fmt: skip


class Fields:
    """The fields of a business object, and which of them take text as it stands."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        definitions = schema.get("$defs", {})
        self.names = tuple(schema.get("properties", {}))
        self._kinds = {name: _kinds(field, definitions, 0) for name, field in schema["properties"].items()}
        self._text = {name for name, field in schema["properties"].items() if _takes_text(field, definitions, 0)}

    def value(self, name: str, text: str, what: str) -> Json:
        """Return the value that `text` stands for; a field that takes text takes it as it is."""
        if name not in self.names:
            raise unknown_field(name, self.names, what)
        if name in self._text:
            return check_json(text, what=f"{what}: /{name}")
        return self._parsed(name, text, what)

    def _parsed(self, name: str, text: str, what: str) -> Json:
        """Return the JSON value that a text is for a field; where it is none, the hint is one that the field takes."""
        try:
            return parse_json(text, max_bytes=BODY_BYTES, what=f"{what}: /{name}")
        except InvalidInput as error:
            if error.reason != "invalid_json":
                raise
            kinds = [kind for kind in self._kinds[name] if kind in _WANTED]
            wanted = " or ".join(dict.fromkeys(_WANTED[kind] for kind in kinds))
            if not wanted:  # it takes text, and what takes text needs no JSON
                error.hint = f"like {name}={shlex.quote(text)}" if name in self._text else error.hint
                raise
            problem = f"expected {wanted}, got {printable(text)}"
            raise InvalidInput(
                f"{what}: /{name}: {problem}",
                problems=[(f"/{name}", problem)],
                reason="does_not_fit",
                hint=f"like {name}{_LIKE[kinds[0]]}",
            ) from None

    def assignments(self, pairs: Sequence[str], what: str) -> dict[str, Json]:
        """Return the fields of `field=value` and `field:=json` words."""
        found: dict[str, Json] = {}
        for pair in pairs:
            name, sign, text = pair.partition("=")
            name, colon = (name[:-1], True) if name.endswith(":") else (name, False)
            if not sign or not name:
                raise UsageError(f"{pair!r} sets no field", hint="field=value, or field:=json")
            if name in found:
                raise UsageError(f"{name} is set twice", hint="keep one of them")
            if colon and name in self.names:
                found[name] = self._parsed(name, text, what)
            else:
                found[name] = self.value(name, text, what)
        return found


def fields_of(service: Service, workflow: str) -> Fields:
    """Return the fields of a loaded workflow's object."""
    return Fields(service.loaded(workflow).workflow.codec.schema())


def example_of(workflow: Workflow[Any]) -> str:
    """Return an object of a workflow as JSON, with what it cannot do without; with dots where that is not enough."""
    schema = workflow.codec.schema()
    wanted = dict.fromkeys([workflow.key_field, *schema.get("required", ())])
    body = {name: _example(schema["properties"][name], name, schema.get("$defs", {})) for name in wanted}
    body[workflow.key_field] = "C-1"
    text = json.dumps(body, ensure_ascii=False)
    try:
        workflow.codec.decode(body, "an example")
    except InvalidInput:
        return f'{{"{workflow.key_field}": "C-1", ...}}'
    return text


def _example(field: Mapping[str, Any], name: str, definitions: Mapping[str, Any]) -> Json:
    field = definitions.get(field["$ref"].rpartition("/")[2], {}) if "$ref" in field else field
    for given in ("default", "const"):
        if given in field:
            return field[given]
    if field.get("enum"):
        return field["enum"][0]
    formats = {"date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z", "time": "12:00:00Z"}
    simple: dict[str, Json] = {
        "string": formats.get(field.get("format", ""), name), "integer": 1, "number": 1, "boolean": False,
        "array": [], "object": {},
    }  # fmt: skip
    kinds = [kind for kind in _kinds(field, definitions, 0) if kind in simple]
    return simple[kinds[0]] if kinds else None


def unknown_field(name: str, known: Sequence[str], what: str) -> InvalidInput:
    """Return the error for a field the object does not have, with the nearest that it has."""
    close = nearest(name, known)
    hint = f"did you mean {close[0]}?" if close else f"its fields: {', '.join(known)}"
    return InvalidInput(
        f"{what}: /{name}: unknown field", problems=[(f"/{name}", "unknown field")], reason="does_not_fit", hint=hint
    )


def _kinds(field: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> list[str]:
    """Return the JSON types a field takes."""
    if depth > 20:
        return []
    if "$ref" in field:
        return _kinds(definitions.get(field["$ref"].rpartition("/")[2], {}), definitions, depth + 1)
    kinds = field.get("type", [])
    found = [kinds] if isinstance(kinds, str) else list(kinds)
    for one in [*field.get("anyOf", ()), *field.get("oneOf", ())]:
        found += _kinds(one, definitions, depth + 1)
    return found


def _takes_text(field: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> bool:
    if depth > 20:
        return False
    if "$ref" in field:
        return _takes_text(definitions.get(field["$ref"].rpartition("/")[2], {}), definitions, depth + 1)
    kinds = field.get("type")
    if kinds == "string" or (isinstance(kinds, list) and "string" in kinds):
        return True
    if any(isinstance(value, str) for value in [*field.get("enum", ()), field.get("const")]):
        return True
    return any(_takes_text(one, definitions, depth + 1) for one in [*field.get("anyOf", ()), *field.get("oneOf", ())])
