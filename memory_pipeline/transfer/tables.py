"""Reads the rows of CSV and Parquet files as JSON objects, so that they are mapped like any other.

A cell of CSV is a text, but for raw_data: a JSON object or array there is taken as such. CSV is
read by the standard library, which knows the line of a row that is refused; Parquet by pyarrow, in
batches.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import IO

from memory_pipeline.content.json_writer import JsonText, exact_json
from memory_pipeline.domain.types import Origin
from memory_pipeline.errors import InvalidMemory, SettingsError
from memory_pipeline.transfer.json_values import Unreadable, end_of, problem
from memory_pipeline.transfer.source import Source

DELIMITERS = ",;\t|"
ROWS_AT_ONCE = 1000


def csv_rows(file: IO[str]) -> Iterator[Origin | Unreadable]:
    """Iterate over the rows of a CSV file, whose first line names its columns.

    Raises:
        InvalidMemory: the file has no such line.

    """
    csv.field_size_limit(sys.maxsize)
    header = file.readline()
    delimiter = max(DELIMITERS, key=header.count)
    names = next(csv.reader([header.removeprefix("\ufeff")], delimiter=delimiter), [])
    if not names or len(set(names)) < len(names):
        raise InvalidMemory("the first line of a CSV file has to name its columns, each once")
    line = 2
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Unreadable(Origin(line, ""), f"no CSV ({error})", last=True)
            return
        if cells is None:
            return
        if len(cells) == len(names):
            origin = Origin(line, _object(dict(zip(names, cells, strict=True))))
            reason = problem(origin.text)
            yield Unreadable(origin, reason) if reason else origin
        elif cells:
            yield Unreadable(
                Origin(line, delimiter.join(cells)),
                f"it has {len(cells)} cells, and the first line {len(names)}",
            )
        line = reader.line_num + 2


def _object(row: dict[str, str]) -> str:
    return exact_json({name: _cell(name, cell) for name, cell in row.items()})


def _cell(name: str, cell: str) -> object:
    if cell == "":
        return None
    if name == "raw_data" and cell.lstrip()[:1] in {"{", "["}:
        text = cell.strip()
        try:
            if end_of(text, 0) == len(text):
                return JsonText(text)
        except json.JSONDecodeError:
            return cell
    return cell


def parquet_rows(source: Source) -> Iterator[Origin | Unreadable]:
    """Iterate over the rows of a Parquet file; the line of one is its number.

    Raises:
        SettingsError: pyarrow is not installed.
        InvalidMemory: it is no whole Parquet file.

    """
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - large, and few need it
    except ImportError:
        raise SettingsError(
            "Parquet needs pyarrow: pip install 'memory_pipeline[parquet]'"
        ) from None
    # Its index stands at its end: a pipe is read whole.
    seekable = source.path if source.is_stored else io.BytesIO(source.stream.read())
    try:
        file = parquet.ParquetFile(seekable)
        number = 0
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            for row in batch.to_pylist():
                number += 1
                yield _parquet_row(number, row)
    except ArrowException as error:
        raise InvalidMemory(f"it is no whole Parquet file: {error}") from None


def _parquet_row(number: int, row: dict[str, object]) -> Origin | Unreadable:
    cells = {
        name: _cell(name, value) if isinstance(value, str) else value for name, value in row.items()
    }
    try:
        return Origin(number, exact_json(_printable(cells)))
    except InvalidMemory as error:
        return Unreadable(Origin(number, repr(sorted(row))), str(error))


def _printable(value: object) -> object:
    """Return a value of a Parquet file as JSON has it: a time as ISO 8601."""
    if isinstance(value, dict):
        return {str(key): _printable(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_printable(child) for child in value]
    if value is None or isinstance(value, str | int | float | Decimal):
        return value
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise InvalidMemory(f"a column has values of the type {type(value).__name__}")
