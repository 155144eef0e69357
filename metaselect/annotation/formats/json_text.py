"""JSON of annotation tools: a list of records, one record alone, or a record a line."""

import json
from typing import Any


def parse_json(content: bytes) -> Any:
    """The parsed text, with or without a byte order mark; None where it is not JSON."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):  # a decoding error is a ValueError
        return None


def json_records(content: bytes) -> list[dict[str, Any]] | None:
    """The objects of a file that is a list of them, one of them, or one a line; None for anything else."""
    found = parse_json(content)
    if isinstance(found, dict):
        return [found]
    if found is None and content.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        found = [parse_json(line) for line in content.splitlines() if line.strip()]
    return found if isinstance(found, list) and all(isinstance(each, dict) for each in found) else None
