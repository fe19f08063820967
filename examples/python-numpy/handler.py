"""With a dependency: the eigenvalues of a symmetric matrix."""

import json

import numpy


def handler(payload: bytes, ctx: dict) -> dict:
    matrix = numpy.array(json.loads(payload), dtype=float)
    return {"eigenvalues": [round(float(value), 6) for value in numpy.linalg.eigvalsh(matrix)]}
