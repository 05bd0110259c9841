"""Handwritten digits of 8 x 8 pixels as scikit-learn ships them: row x column x image."""

from __future__ import annotations

import csv

import numpy as np

from pipeline.datasets.images import image_tensor
from pipeline.datasets.raw import Files, RawTensor, only_file, open_text
from pipeline.errors import InputError

SIDE = 8
MAXIMUM = 16  # levels of grey
CLASSES = 10


def read(files: Files, *, test: int = 360) -> RawTensor:
    """Read ``digits.csv.gz``: 64 pixels of 0..16 and the digit on each line.

    Parameters
    ----------
    test
        How many of the last images form the test split. Images come writer by writer, so that the tail
        tests on hands that training has not seen.
    """
    path = only_file(files)
    records = []
    with open_text(path) as text:
        for number, fields in enumerate(csv.reader(text), start=1):
            if len(fields) != SIDE * SIDE + 1 or not all(field.isdecimal() for field in fields):
                raise InputError(f"{path}:{number}: needs {SIDE * SIDE + 1} whole numbers separated by commas")
            record = [int(field) for field in fields]
            if max(record[:-1]) > MAXIMUM or record[-1] >= CLASSES:
                raise InputError(f"{path}:{number}: pixels are 0..{MAXIMUM} and the digit is 0..{CLASSES - 1}")
            records.append(record)
    if type(test) is not int or not 0 <= test < max(len(records), 1):
        raise InputError(f"option test: a whole number of images below {len(records)}, not {test!r}")
    table = np.array(records, dtype=np.uint8).reshape(-1, SIDE * SIDE + 1)
    pixels = table[:, :-1].reshape(-1, SIDE, SIDE)
    split = np.where(np.arange(len(table)) < len(table) - test, "train", "test")
    return image_tensor(pixels, {"label": table[:, -1].astype(np.int64), "split": split.astype(object)}, MAXIMUM)
