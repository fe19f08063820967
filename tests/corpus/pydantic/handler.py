"""Validates an order: what is valid comes back normalized, what is not as the list of errors."""

from datetime import date
from decimal import Decimal

from pydantic import BaseModel, Field, ValidationError


class Line(BaseModel):
    article: str = Field(pattern=r"^[A-Z]{2}-\d{3}$")
    count: int = Field(gt=0)
    price: Decimal


class Order(BaseModel):
    due: date
    lines: list[Line] = Field(min_length=1)


def handler(payload: bytes, ctx: dict) -> str:
    try:
        return Order.model_validate_json(payload).model_dump_json()
    except ValidationError as error:
        return error.json(include_url=False, include_context=False, include_input=False)
