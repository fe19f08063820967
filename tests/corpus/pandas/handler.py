"""Numbers: sums of a table by group, by pandas over numpy."""

import io

import numpy as np
import pandas as pd


def handler(payload: bytes, ctx: dict) -> dict:
    table = pd.read_csv(io.BytesIO(payload))
    sums = table.groupby("region")["amount"].agg(["sum", "mean", "max"])
    spread = float(np.round(np.linalg.norm(table["amount"].to_numpy() - table["amount"].mean()), 3))
    return {"regions": sums.to_dict("index"), "spread": spread}
