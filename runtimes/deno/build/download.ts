/**
 * Run inside the sandbox of a step that sees no source: download npm tarballs, or modules of `https:` imports, each to
 * the path that the node named.
 *
 *     download.ts LIST SHARED INTO
 *
 * LIST is JSON [{"url", "path", "integrity", "index"}]; what has no path is not fetched, and what lies below SHARED
 * not again. The index "jsr" is where JSR_URL says. The digest is compared here for the message alone, since nothing
 * here is trusted: the node verifies each file before the shared cache has it.
 */

interface Entry {
  url: string;
  path: string;
  integrity: string;
  index?: string;
}

const AT_ONCE = 8;
const TRIES = 3;
const SILENCE_MS = 60_000;
const PAUSE_MS = 500;
const ALGORITHMS: Record<string, string> = { sha256: "SHA-256", sha512: "SHA-512" };
const FOR_GOOD = [401, 403, 404, 410];
const REGISTRY = (Deno.env.get("NPM_CONFIG_REGISTRY") || "https://registry.npmjs.org").replace(/\/+$/, "");
const JSR = "https://jsr.io";
const JSR_MIRROR = (Deno.env.get("JSR_URL") || JSR).replace(/\/+$/, "");

function there(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** Write the file; returns what stopped it, or "" when it is there. */
async function fetched(entry: Entry, into: string): Promise<string> {
  const url = entry.index === "jsr"
    ? JSR_MIRROR + entry.url.slice(JSR.length)
    : /^https?:/.test(entry.url)
    ? entry.url
    : `${REGISTRY}/${entry.url}`;
  const slash = entry.path.indexOf("/");
  const name = slash < 0 ? entry.url : entry.path.slice(slash + 1);
  const algorithm = entry.integrity.slice(0, entry.integrity.indexOf("-"));
  let trouble = "";
  for (let number = 0; number < TRIES; number++) {
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS * number));
    try {
      const answer = await fetch(url, { signal: AbortSignal.timeout(SILENCE_MS) });
      if (answer.ok && answer.body) {
        const bytes = new Uint8Array(await answer.arrayBuffer());
        const digest = new Uint8Array(await crypto.subtle.digest(ALGORITHMS[algorithm], bytes));
        trouble = `${algorithm}-${btoa(String.fromCharCode(...digest))}`;
        if (trouble !== entry.integrity) {
          if (number < TRIES - 1) continue; // what was cut on its way
          return `Integrity check failed for package: ${name} has ${trouble}, not ${entry.integrity}`;
        }
        Deno.writeFileSync(into, bytes);
        return "";
      }
      await answer.body?.cancel();
      trouble = `HTTP ${answer.status} ${answer.statusText}`;
      if (FOR_GOOD.includes(answer.status)) return `${name} is not to be had: ${trouble}`;
    } catch (error) {
      trouble = String(error);
    }
  }
  return `error sending request for ${name}: ${trouble}`;
}

const [list, shared, folder] = Deno.args;
const entries: Entry[] = JSON.parse(Deno.readTextFileSync(list));
const missing = entries.filter((entry) => entry.path && !there(`${shared}/${entry.path}`));
// Two may be the same bytes: the first is the one whose index the node lets this step reach.
const waiting = [...new Map(missing.toReversed().map((entry) => [entry.path, entry])).values()].reverse();
const all = waiting.length;
const stopped: string[] = [];
await Promise.all(Array.from({ length: AT_ONCE }, async () => {
  for (let entry = waiting.shift(); entry; entry = waiting.shift()) {
    const into = `${folder}/${entry.path}`;
    Deno.mkdirSync(into.slice(0, into.lastIndexOf("/")), { recursive: true });
    const trouble = await fetched(entry, into);
    if (trouble) stopped.push(trouble);
  }
}));
for (const line of stopped) console.error(`error: ${line}`);
console.log(`${all - stopped.length} files downloaded`);
Deno.exit(stopped.length ? 1 : 0);
