import { start } from "ignite";

let active = 0;

start(async (payload, ctx) => {
  if (ctx.path === "/echo") return payload;
  if (ctx.path === "/ctx") {
    return {
      execution_id: ctx.executionId,
      function_id: ctx.functionId,
      organization_id: ctx.organizationId,
    };
  }
  if (ctx.path === "/fail") throw new Error("deliberately");
  if (ctx.path === "/panic") throw "deliberately";
  if (ctx.path === "/sleep") {
    const now = ++active;
    try {
      await new Promise((resolve) => setTimeout(resolve, Number(ctx.query)));
    } finally {
      active--;
    }
    return { active: now };
  }
  return { method: ctx.method, path: ctx.path, query: ctx.query, test: ctx.headers.get("x-test") ?? "" };
});
