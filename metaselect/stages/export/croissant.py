"""``croissant.json``: the description of an exported data set by which other programs load it.

Source: the Croissant format 1.0 of MLCommons, https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from metaselect import __version__
from metaselect.records import Json
from metaselect.run.files import sha256_file

CONTEXT: Mapping[str, Json] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification prescribes, word for word."""
ENCODINGS = {".parquet": "application/x-parquet", ".csv": "text/csv"}
TYPES = {"string": "sc:Text", "number": "sc:Float"}


def croissant(table: Path, columns: Mapping[str, tuple[str, str]], images: Sequence[str]) -> dict[str, Json]:
    """The description of a table, and of the images beside it.

    Args:
        table: the file, which is written.
        columns: name -> (a key of ``TYPES``, what it is).
        images: globs of the image files, below the table's folder; empty where there are none.
    """
    files: list[Json] = [
        {
            "@type": "cr:FileObject",
            "@id": table.name,
            "name": table.name,
            "contentUrl": table.name,
            "contentSize": f"{table.stat().st_size} B",
            "encodingFormat": ENCODINGS[table.suffix],
            "sha256": sha256_file(table),
        }
    ]
    if images:
        files.append(
            {
                "@type": "cr:FileSet",
                "@id": "images",
                "name": "images",
                "encodingFormat": "image/*",
                "includes": list(images),
            }
        )
    fields: list[Json] = [
        {
            "@type": "cr:Field",
            "@id": f"labels/{name}",
            "name": name,
            "description": meaning,
            "dataType": TYPES[kind],
            "source": {"fileObject": {"@id": table.name}, "extract": {"column": name}},
        }
        for name, (kind, meaning) in columns.items()
    ]
    return {
        "@context": dict(CONTEXT),
        "@type": "sc:Dataset",
        "name": "cleaned-labels",
        "description": f"Labels as MetaSelect {__version__} cleaned them, with a decision on each sample.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "distribution": files,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "labels",
                "name": "labels",
                "key": {"@id": "labels/sample_id"},
                "field": fields,
            }
        ],
    }
