// One file: answers with what it was sent and who asked.
import { start } from "ignite";

start((payload, ctx) => {
  const { name = "world" } = JSON.parse(new TextDecoder().decode(payload) || "{}");
  return { hello: name, execution: ctx.executionId, path: ctx.path };
});
