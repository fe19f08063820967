// Real dependencies: renders the Markdown that it is sent, when it is what it expects.
import { start } from "ignite";
import { marked } from "marked";
import { z } from "zod";

const Text = z.string().trim().min(1).max(100_000);

start(async (payload) => {
  const found = Text.safeParse(new TextDecoder().decode(payload));
  if (!found.success) return Response.json({ error: found.error.issues[0].message }, { status: 400 });
  return await marked.parse(found.data);
});
