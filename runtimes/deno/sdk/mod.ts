/**
 * The HTTP front of a Deno app: `import { start } from "ignite"`, then `start(handler)`.
 *
 * It listens on $PORT (80), answers /healthz itself and ends on TERM when what is in flight has been answered.
 * IGNITE_MAX_CONCURRENCY bounds the handlers that run at once; the rest wait their turn.
 */

/** The invocation, beside its payload. Paths and queries are as they were sent, not decoded. */
export interface Context {
  /** x-ignite-execution-id, or "". */
  readonly executionId: string;
  /** x-ignite-function-id ("org/name"), or "". */
  readonly functionId: string;
  /** x-ignite-organization-id, or "". */
  readonly organizationId: string;
  readonly method: string;
  readonly path: string;
  /** Without the question mark; "" where there is none. */
  readonly query: string;
  readonly headers: Headers;
}

/**
 * What a handler returns: bytes are sent as they are, a string as UTF-8, a Response and a stream as they are, anything
 * else as JSON.
 */
export type Handler = (payload: Uint8Array, ctx: Context) => unknown;

const JSON_TYPE = { "content-type": "application/json" };
/** "Completed" comes before the last bytes have left the process. */
const FLUSH_MS = 200;
const BYTES_TYPE = { "content-type": "application/octet-stream" };

/** Serve the handler until TERM. */
export function start(handler: Handler): void {
  if (typeof handler !== "function") {
    throw new TypeError(`start(handler) takes a function, not ${typeof handler}`);
  }
  const slots = new Slots(positive("IGNITE_MAX_CONCURRENCY", Infinity));
  let open = 0, ending = false;
  const server = Deno.serve(
    { hostname: "0.0.0.0", port: positive("PORT", 80), onListen: () => {} },
    (request, info) => {
      open++;
      info.completed.catch(() => {}).finally(() => {
        if (--open === 0 && ending) setTimeout(() => Deno.exit(0), FLUSH_MS);
      });
      return answer(request, handler, slots);
    },
  );
  const end = () => {
    ending = true;
    server.shutdown().then(() => Deno.exit(0));
    if (open === 0) Deno.exit(0); // shutdown() would wait for connections that are idle
  };
  Deno.addSignalListener("SIGTERM", end);
  Deno.addSignalListener("SIGINT", end);
}

async function answer(request: Request, handler: Handler, slots: Slots): Promise<Response> {
  const target = request.url.slice(request.url.indexOf("/", request.url.indexOf("://") + 3));
  const mark = target.indexOf("?");
  const path = mark < 0 ? target : target.slice(0, mark);
  if (path === "/healthz") {
    return new Response("ok\n");
  }
  let payload: Uint8Array;
  try {
    payload = new Uint8Array(await request.arrayBuffer());
  } catch (error) { // a chunk that is none, or a caller that left
    return new Response(`${error}\n`, { status: 400 });
  }
  await slots.take();
  try {
    return response(
      await handler(payload, {
        executionId: request.headers.get("x-ignite-execution-id") ?? "",
        functionId: request.headers.get("x-ignite-function-id") ?? "",
        organizationId: request.headers.get("x-ignite-organization-id") ?? "",
        method: request.method,
        path,
        query: mark < 0 ? "" : target.slice(mark + 1),
        headers: request.headers,
      }),
    );
  } catch (error) {
    return failure(error);
  } finally {
    slots.give();
  }
}

function response(value: unknown): Response {
  if (value instanceof Response) return value;
  if (typeof value === "string") return new Response(value);
  if (value instanceof ReadableStream) return new Response(value, { headers: BYTES_TYPE });
  if (value instanceof ArrayBuffer) return new Response(value, { headers: BYTES_TYPE });
  if (ArrayBuffer.isView(value)) return new Response(value as unknown as BodyInit, { headers: BYTES_TYPE });
  const text = JSON.stringify(value ?? null);
  if (text === undefined) {
    throw new TypeError(`the handler returned a ${typeof value}, which is no JSON`);
  }
  return new Response(text, { headers: JSON_TYPE });
}

/** 500 with the error's message and type; the stack goes to the log alone. */
function failure(error: unknown): Response {
  let message = "the error has no text", type = typeof error as string;
  try {
    message = error instanceof Error ? error.message : String(error);
    type = error instanceof Error ? error.name : type;
    console.error(error instanceof Error ? error.stack ?? message : message);
  } catch {
    // What was thrown may itself throw where it is read.
  }
  return new Response(JSON.stringify({ error: String(message), type: String(type) }), { status: 500, headers: JSON_TYPE });
}

function positive(name: string, otherwise: number): number {
  const text = Deno.env.get(name);
  if (text === undefined || text === "") return otherwise;
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1) {
    throw new RangeError(`${name} is ${JSON.stringify(text)}, not a number above 0`);
  }
  return value;
}

/** As many at once as there are slots; the rest wait in order. */
class Slots {
  #free: number;
  #waiting: (() => void)[] = [];

  constructor(free: number) {
    this.#free = free;
  }

  async take(): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  give(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free++;
  }
}
