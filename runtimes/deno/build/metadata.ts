/**
 * Run inside the sandbox of a step that sees no source and no network: put metadata of JSR that the node verified where
 * the node reads which files it pins.
 *
 *     metadata.ts LIST SHARED FETCH
 *
 * LIST is JSON [{"path", "metadata"}]; what has no "metadata" is none. Nothing here is trusted: the node compares each
 * with its digest again.
 */

interface Entry {
  path: string;
  metadata?: string;
}

const [list, shared, folder] = Deno.args;
const entries: Entry[] = JSON.parse(Deno.readTextFileSync(list));
let count = 0;
for (const { path, metadata } of entries) {
  if (!metadata) continue;
  const into = `${folder}/${metadata}`;
  Deno.mkdirSync(into.slice(0, into.lastIndexOf("/")), { recursive: true });
  Deno.writeFileSync(into, Deno.readFileSync(`${shared}/${path}`));
  count++;
}
console.log(`${count} packages of JSR read`);
