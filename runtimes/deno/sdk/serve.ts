/** Serve a module whose default export has `fetch`, or is a function: `serve.ts FILE`. */

const found = (await import(`file://${Deno.args[0]}`)).default;
const fetch: unknown = typeof found === "function" ? found : found?.fetch;
if (typeof fetch !== "function") {
  console.error(`${Deno.args[0]}: the default export has no fetch(request), and nothing listens on $PORT`);
  Deno.exit(1);
}

let open = 0, ending = false;
const server = Deno.serve(
  { hostname: "0.0.0.0", port: Number(Deno.env.get("PORT") || 80), onListen: () => {} },
  (request, info) => {
    if (new URL(request.url).pathname === "/healthz") return new Response("ok\n");
    open++;
    info.completed.catch(() => {}).finally(() => {
      if (--open === 0 && ending) setTimeout(() => Deno.exit(0), 200);
    });
    return fetch.call(found, request, info);
  },
);
Deno.addSignalListener("SIGTERM", () => {
  ending = true;
  server.shutdown().then(() => Deno.exit(0));
  if (open === 0) Deno.exit(0);
});
