/**
 * Run inside the sandbox of a step that sees no source and no network: lay modules of `https:` and `jsr:` imports that
 * the node verified, as Deno's own cache has them.
 *
 *     modules.ts LIST SHARED DENO_DIR
 *
 * LIST is JSON [{"url", "path"}], or with "text" in the place of a file. No header of an answer is taken, since a lock
 * pins none: a module is what the ending of its URL names, and JavaScript where it names nothing.
 */

interface Entry {
  url: string;
  path: string;
  text?: string;
}

const KNOWN = /\.(?:[cm]?[jt]sx?|json|wasm)$/;
const [list, shared, cache] = Deno.args;
const entries: Entry[] = JSON.parse(Deno.readTextFileSync(list));

async function hex(text: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

for (const entry of entries) {
  const url = new URL(entry.url);
  const host = url.port ? `${url.hostname}_PORT${url.port}` : url.hostname;
  const folder = `${cache}/remote/https/${host}`;
  const headers = KNOWN.test(url.pathname) ? {} : { "content-type": "application/javascript" };
  const body = entry.path ? Deno.readFileSync(`${shared}/${entry.path}`) : new TextEncoder().encode(entry.text);
  const told = new TextEncoder().encode(`\n// denoCacheMetadata=${JSON.stringify({ headers, url: entry.url, time: 0 })}`);
  const file = new Uint8Array(body.length + told.length);
  file.set(body);
  file.set(told, body.length);
  Deno.mkdirSync(folder, { recursive: true });
  Deno.writeFileSync(`${folder}/${await hex(url.pathname + url.search)}`, file);
}
console.log(`${entries.length} modules laid`);
