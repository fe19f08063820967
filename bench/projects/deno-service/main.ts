// A service with real dependencies: validates what it is sent.
import { Hono } from "hono";
import { z } from "zod";

const revision = "0";
const Text = z.object({ text: z.string().min(1) });
const app = new Hono();

app.get("/", (c) => c.text(revision));
app.post("/words", async (c) => {
  const found = Text.safeParse(await c.req.json());
  return found.success ? c.json({ words: found.data.text.split(/\s+/).length }) : c.json(found.error.issues, 400);
});

export default app;
