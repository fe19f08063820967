// A service of its own: routes, a validated body, an error of its own.
import { Hono } from "hono";

const app = new Hono();

app.get("/readers/:count{[0-9]+}", (c) => c.text(`${c.req.query("name")} has ${c.req.param("count")} readers`));
app.post("/total", async (c) => {
  const lines = await c.req.json<{ price: number; count: number }[]>();
  return c.json({ lines: lines.length, total: lines.reduce((sum, line) => sum + line.price * line.count, 0) });
});
app.notFound((c) => c.json({ error: "nothing is here" }, 404));

export default app;
