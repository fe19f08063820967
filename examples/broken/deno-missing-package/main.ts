import x from "npm:a-package-that-nobody-made@1";

Deno.serve(() => new Response(x));
