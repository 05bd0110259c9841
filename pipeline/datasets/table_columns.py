"""Which columns of a user's table are modes and which holds the values, where no option says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.datasets.raw import members
from pipeline.datasets.readers import columnar, csvtable
from pipeline.datasets.text import is_number
from pipeline.errors import InputError

TABLES = ("csv", "columnar")
NO_NAME = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # how a table's writer names a column that has no name


def with_columns(path: Path, format_name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reader's options, for a table with its columns: all but the last are modes, the last is the value.

    Columns without a name (the index that pandas writes, what follows a comma at the end of each line) are left
    out. A line says what is read as what.

    Raises
    ------
    InputError
        A table that may be read in two ways, with the option that decides; one with too few columns.
    """
    if format_name not in TABLES or "columns" in given:
        return dict(given)
    if format_name == "columnar" and path.suffix.lower() == ".parquet" and columnar.is_sparse_tensor(path):
        raise InputError(
            f"{path}: is a sparse tensor already; as a table, without labels and sizes: option columns=[mode_0,mode_1]"
        )
    named, options = _columns(path, format_name, given)
    names = [name for name in named if not (isinstance(name, str) and NO_NAME.fullmatch(name))]
    value = given.get("value")
    if value is None:
        if len(names) == 2:
            raise InputError(
                f"{path}: two columns, {names[0]} and {names[1]}: set the option columns=[{names[0]},{names[1]}] "
                f"if both are modes, or value={names[1]} if that is the value"
            )
        value = names[-1] if names else None
        if isinstance(value, str) and format_name == "csv" and "header" not in given and is_number(value):
            raise InputError(
                f"{path}: the first line ends with the number {value}: set the option header=false if it is an "
                "entry, or header=true if it names the columns"
            )
    chosen = [name for name in names if str(name) != str(value)]
    if not chosen:
        first = str(named[0]) if named else ""
        above = "; a line above the names, as this, must go" if first.startswith(("#", "%", "sep=")) else ""
        raise InputError(
            f"{path}: columns {named}: needs one for each mode, and one for the values; see the option columns{above}"
        )
    left_out = f"; left out: {len(named) - len(names)} without a name" if len(named) > len(names) else ""
    if left_out or "value" not in given:
        read = f"modes: {', '.join(map(str, chosen))}; value: {value}{left_out}"
        print(f"{read} (choose others with the options columns and value)")
    return {**options, "columns": chosen, "value": value}


def _columns(path: Path, format_name: str, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Names of a table's columns, positions where it has no header, and the options with `header` decided."""
    if format_name == "columnar":
        return list(columnar.names(path)), dict(given)
    told = {key: given[key] for key in ("quotes", "encoding", "member") if key in given}
    if (member := told.get("member")) is not None:
        told["member"] = members(path, member)[0]
    layout = csvtable.Layout(path, **told)
    separator = given.get("separator")
    found = layout.separator_found() if separator is None else csvtable.checked_separator(separator)
    layout = replace(layout, separator=found)
    header = given.get("header")
    layout = replace(layout, header=csvtable.has_header(layout) if header is None else header)
    names = layout.header_names()
    if not layout.header:
        first = replace(layout, header=True).header_names()
        names[-1:] = names[-1:] if first[-1] else [""]
    return names, {**given, "header": layout.header, "separator": found}
