// Its own HTTP server on $PORT; no SDK.
Deno.serve({ port: Number(Deno.env.get("PORT")), hostname: "0.0.0.0" }, async (request) => {
  return request.method === "POST" ? new Response(await request.text()) : new Response(null, { status: 404 });
});
