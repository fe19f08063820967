"""An ASGI application without a server of its own: the front brings one, on $PORT."""

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Order(BaseModel):
    item: str
    count: int = 1


@app.post("/")
async def order(order: Order) -> dict[str, object]:
    return {"ordered": order.item, "count": order.count}
