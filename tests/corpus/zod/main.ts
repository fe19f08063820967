// Validates an order: what is valid comes back with its total, what is not as the list of errors.
import { start } from "ignite";
import { z } from "zod";

const Order = z.object({
  due: z.string().date(),
  lines: z.array(z.object({ article: z.string().regex(/^[A-Z]{2}-\d{3}$/), count: z.number().int().positive() })).min(1),
});

start((payload) => {
  const found = Order.safeParse(JSON.parse(new TextDecoder().decode(payload)));
  if (found.success) return { count: found.data.lines.reduce((sum, line) => sum + line.count, 0), due: found.data.due };
  return Response.json(found.error.issues.map((each) => [each.path.join("."), each.code]), { status: 400 });
});
